//! `portcullis schema`, `openapi`, `completions` and `man`: what describes the program to other programs.

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::Value;

use super::{Arguments, Outcome, out};
use crate::config;

/// The API, kept by hand beside the routers; the tests below compare them.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// For this shell.
    shell: Shell,
}

/// The JSON Schema of `gateway.toml`.
pub(super) fn schema() -> Outcome {
    print(&format!("{:#}\n", config::schema()))
}

/// OpenAPI 3.1 of the auth endpoints and the admin API.
pub(super) fn openapi() -> Outcome {
    print(&format!("{:#}\n", api()))
}

/// What a shell reads to complete our commands.
pub(super) fn completions(what: &Completions) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(what.shell, &mut Arguments::command(), "portcullis", &mut text);
    print(&String::from_utf8_lossy(&text))
}

fn api() -> Value {
    let mut api: Value = serde_json::from_str(OPENAPI).expect("a test reads it");
    api["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    api
}

fn print(text: &str) -> Outcome {
    out::text(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Methods and paths of the document that begin so.
    fn described(wanted: impl Fn(&str) -> bool) -> BTreeSet<(String, String)> {
        let api = api();
        let mut found = BTreeSet::new();
        for (path, item) in api["paths"].as_object().unwrap().iter().filter(|(path, _)| wanted(path)) {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "servers");
            found.extend(methods.map(|method| (method.clone(), path.clone())));
        }
        found
    }

    fn is_admin(path: &str) -> bool {
        path.starts_with("/admin") || matches!(path, "/livez" | "/readyz" | "/metrics")
    }

    #[test]
    fn every_resource_of_the_admin_api_is_described_and_no_other() {
        // The router cannot be asked; its source can be read.
        let source: String = include_str!("../admin/mod.rs").split_whitespace().collect();
        let source = source.replace(".route(REVOCATIONS", ".route(\"/admin/revocations\"");
        let mut routed = BTreeSet::new();
        for piece in source.split(".route(\"").skip(1) {
            let (path, rest) = piece.split_once('"').unwrap();
            let rest = rest.split(".route(").next().unwrap();
            for method in ["get", "post", "put", "delete"] {
                if rest.contains(&format!("{method}(")) && is_admin(path) {
                    routed.insert((method.to_owned(), path.to_owned()));
                }
            }
        }
        assert!(routed.len() > 25, "{routed:?}");
        assert_eq!(described(is_admin), routed);
    }

    #[test]
    fn every_endpoint_is_described_and_no_other() {
        let mut served = BTreeSet::new();
        for (path, methods) in crate::endpoint::catalogue() {
            served.extend(methods.into_iter().map(|method| (method.to_lowercase(), path.to_owned())));
        }
        assert_eq!(described(|path| !is_admin(path)), served);
    }

    #[test]
    fn everything_it_refers_to_is_there() {
        let api = api();
        let text = api.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(api.pointer(reference).is_some(), "{reference}");
        }
        let ids: Vec<&str> =
            text.split("\"operationId\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}
