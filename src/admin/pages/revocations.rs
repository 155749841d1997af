//! Revocations: the trail, making one, taking one back, and all of them as they come.

use axum::Extension;
use axum::extract::{Form, Query, State};
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::html::{Html, badge, html, table, when};
use super::{Asked, Ours, csrf, encoded, failed, page, query, refused, text};

const KINDS: [&str; 6] = ["token", "session", "subject", "client", "key", "issuer"];
const HEAD: [&str; 8] = ["no.", "what", "issuer", "reason", "by", "at", "until", ""];

/// `GET /ui/revocations`.
pub(super) async fn list(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    Query(wanted): Query<Value>,
) -> Response {
    let in_force = if text(&wanted, "all") == "true" { "" } else { "true" };
    let (kind, value, issuer) = (text(&wanted, "kind"), text(&wanted, "value"), text(&wanted, "issuer"));
    let chosen = [("kind", kind), ("value", value), ("issuer", issuer)];
    let path =
        [&chosen[..], &[("in_force", in_force), ("after", text(&wanted, "after")), ("limit", "50")]].concat();
    let path = format!("/admin/revocations{}", query(&path));
    let found = match pages.ask(&asked.from, Method::GET, &path, None).await {
        Ok(answer) => {
            let rows = answer["data"].as_array().cloned().unwrap_or_default();
            let rows = rows.iter().map(|entry| row(entry, Some(&asked))).collect();
            let more = answer["next"].as_str().map_or_else(Html::default, |after| {
                let all = text(&wanted, "all");
                let link = query(&[&chosen[..], &[("all", all), ("after", after)]].concat());
                html!("<p><a class=\"more\" rel=\"next\" href=\"/ui/revocations{}\">Older ones</a></p>", link)
            });
            html!("{}{}", table("Revocations", &HEAD, rows, "There is none like that."), more)
        }
        Err(words) => failed(&words),
    };
    let all = Html(if in_force.is_empty() { " checked" } else { "" }.to_owned());
    let search = html!(
        "<form method=\"get\" class=\"bar\" role=\"search\"><label>Kind <select name=\"kind\"><option value=\"\">any</option>{}</select></label>\
         <label>Value <input name=\"value\" value=\"{}\"></label><label>Issuer <input name=\"issuer\" value=\"{}\" size=\"12\"></label>\
         <label class=\"inline\"><input type=\"checkbox\" name=\"all\" value=\"true\"{}> also lifted and expired</label><button class=\"quiet\">Search</button></form>",
        kinds(kind),
        value,
        issuer,
        all
    );
    let revoke = html!(
        "<details class=\"panel\"{}><summary>Revoke</summary><form method=\"post\" class=\"bar\" data-confirm=\"Revoke this now?\">{}\
         <label>Kind <select name=\"kind\">{}</select></label><label>Value <input name=\"value\" size=\"34\"></label>\
         <label>Issuer <input name=\"issuer\" placeholder=\"self\" size=\"12\"></label><label>Reason <input name=\"reason\" size=\"24\"></label>\
         <label class=\"wide\">or a token <input name=\"token\" autocomplete=\"off\" spellcheck=\"false\"></label><button class=\"danger\">Revoke</button></form>\
         <p class=\"hint\">In force and on disk when the next page says so. A subject's later sign-in works at once.</p></details>",
        Html(if text(&wanted, "revoke").is_empty() { String::new() } else { " open".to_owned() }),
        csrf(&asked),
        kinds("subject")
    );
    page(&asked, "/ui/revocations", "Revocations", html!("{}{}{}", revoke, search, found))
}

fn kinds(chosen: &str) -> Html {
    let option = |kind: &&str| {
        let selected = Html(if *kind == chosen { " selected" } else { "" }.to_owned());
        html!("<option{}>{}</option>", selected, kind)
    };
    let own = Some(chosen).filter(|kind| !kind.is_empty() && !KINDS.contains(kind));
    KINDS.iter().chain(own.as_ref()).map(option).collect()
}

/// One entry of the trail; with a button where it can be taken back.
fn row(entry: &Value, asked: Option<&Asked>) -> Vec<Html> {
    let in_force = entry["in_force"] == true;
    let action = match asked.filter(|_| in_force) {
        None if entry["lift"] == true => badge("warn", "lifted"),
        None if in_force => badge("good", "in force"),
        None => badge("", "past"),
        Some(asked) => html!(
            "<form method=\"post\" action=\"/ui/unrevoke\" data-confirm=\"Take this revocation back?\">{}<input type=\"hidden\" name=\"kind\" value=\"{}\">\
             <input type=\"hidden\" name=\"value\" value=\"{}\"><input type=\"hidden\" name=\"issuer\" value=\"{}\"><button class=\"quiet\">Unrevoke</button></form>",
            csrf(asked),
            text(entry, "kind"),
            text(entry, "value"),
            text(entry, "issuer")
        ),
    };
    vec![
        html!("{}", entry["sequence"]),
        html!("{} <code>{}</code>", badge("", entry["kind"].as_str().unwrap_or_default()), entry["value"]),
        html!("{}", entry["issuer"]),
        html!("{}", entry["reason"]),
        html!("{}", entry["actor"]),
        when(&entry["at"]),
        when(&entry["expires_at"]),
        action,
    ]
}

/// `POST /ui/revocations`.
pub(super) async fn revoke(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    Form(form): Form<Value>,
) -> Response {
    if !asked.session.made(text(&form, "csrf")) {
        return refused();
    }
    let mut entry = match text(&form, "token") {
        "" => json!({ "kind": text(&form, "kind"), "value": text(&form, "value") }),
        token => json!({ "token": token }),
    };
    let optional = if entry.get("token").is_some() { &["reason"][..] } else { &["issuer", "reason"] };
    for name in optional {
        if !text(&form, name).is_empty() {
            entry[*name] = text(&form, name).into();
        }
    }
    let done = pages.ask(&asked.from, Method::POST, "/admin/revocations", Some(entry)).await;
    let told = done.map(|done| format!("Revoked: in force and on disk as number {}.", done["sequence"]));
    let to = match text(&form, "back") {
        id if !id.is_empty() => format!("/ui/users/{}", encoded(id)),
        _ if told.is_err() => "/ui/revocations?revoke=1".to_owned(),
        _ => "/ui/revocations".to_owned(),
    };
    pages.back(&asked.session, told, &to)
}

/// `POST /ui/unrevoke`: takes one back, and tells what still refuses.
pub(super) async fn unrevoke(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    Form(form): Form<Value>,
) -> Response {
    if !asked.session.made(text(&form, "csrf")) {
        return refused();
    }
    // An issuer is named by what stands behind its kind.
    let named = if text(&form, "kind") == "issuer" { "issuer" } else { "value" };
    let (kind, value) = (encoded(text(&form, "kind")), encoded(text(&form, named)));
    let path = format!("/admin/revocations/{kind}/{value}{}", query(&[("issuer", text(&form, "issuer"))]));
    let told = pages.ask(&asked.from, Method::DELETE, &path, None).await.map(|done| {
        let still = done["still_refused_by"].as_array().cloned().unwrap_or_default();
        let still: Vec<String> = still
            .iter()
            .map(|by| [&by["kind"], &by["value"]].map(|part| part.as_str().unwrap_or_default()).join(" "))
            .collect();
        match still.is_empty() {
            true => format!("Taken back as number {}; nothing else refuses it.", done["sequence"]),
            false => format!(
                "Taken back as number {}, but still refused by: {}.",
                done["sequence"],
                still.join(", ")
            ),
        }
    });
    pages.back(&asked.session, told, "/ui/revocations")
}

/// `GET /ui/events`: the newest, and with the script what follows.
pub(super) async fn events(State(pages): State<Ours>, Extension(asked): Extension<Asked>) -> Response {
    let content = match pages.ask(&asked.from, Method::GET, "/admin/revocations?limit=50", None).await {
        Ok(answer) => {
            let rows = answer["data"].as_array().cloned().unwrap_or_default();
            let newest = rows.first().map_or(Value::from(0), |entry| entry["sequence"].clone());
            let rows = rows.iter().map(|entry| row(entry, None)).collect();
            html!(
                "<p class=\"feed\" data-feed=\"/ui/feed\" data-since=\"{}\" role=\"status\">The newest entries; with scripts, those to come appear by themselves.</p>{}",
                newest,
                table("Events", &HEAD, rows, "Nothing has been revoked yet.")
            )
        }
        Err(words) => failed(&words),
    };
    page(&asked, "/ui/events", "Live events", content)
}

/// `GET /ui/feed`: `/admin/events` for the script.
pub(super) async fn feed(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    Query(wanted): Query<Value>,
    headers: http::HeaderMap,
) -> Response {
    // A browser that lost the stream says where it was.
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let since = if last.is_empty() { text(&wanted, "since") } else { last };
    let path = format!("/admin/events{}", query(&[("since", since)]));
    pages.send(&asked.from, Method::GET, &path, None).await
}
