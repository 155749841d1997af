//! The overview, keys, routes, upstreams, and what would become of a token.

use axum::Extension;
use axum::extract::{Form, State};
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::html::{Html, badge, grouped, html, size, table, when};
use super::{Asked, Ours, Pages, csrf, encoded, failed, page, refused, text};

/// `GET /` for somebody who is signed in.
pub(super) async fn overview(pages: &Pages, asked: &Asked) -> Response {
    let get = |path: &'static str| pages.ask(&asked.from, Method::GET, path, None);
    let (ready, stats, watermark) =
        tokio::join!(get("/readyz"), get("/admin/stats"), get("/admin/watermark"));
    let upstreams = get("/admin/upstreams").await.unwrap_or_default();
    let (stats, watermark) = (stats.unwrap_or_default(), watermark.unwrap_or_default());
    let ready = ready.unwrap_or_default();
    let state = match ready["reasons"].as_array() {
        None => badge("good", "ready"),
        Some(reasons) => html!("{} {}", badge("bad", "not ready"), Value::from(reasons.clone())),
    };
    let card = |name: &str, value: Html, more: Html| {
        html!("<div class=\"card\"><dt>{}</dt><dd>{}<small>{}</small></dd></div>", name, value, more)
    };
    let number = |value: &Value| grouped(value.as_f64().unwrap_or_default());
    let none = Html::default;
    let figures = Figures::of(&pages.parts.metrics.text());
    let entries = stats["entries"].as_object().cloned().unwrap_or_default();
    let total: f64 = entries.values().filter_map(Value::as_f64).sum();
    let cache = &stats["cache"];
    let (hits, misses) = (cache["hits"].as_f64().unwrap_or(0.0), cache["misses"].as_f64().unwrap_or(0.0));
    let share = if hits + misses > 0.0 {
        format!("{:.1} % hits", 100.0 * hits / (hits + misses))
    } else {
        "no look-up yet".to_owned()
    };
    let cards: Html = [
        card("State", state, none()),
        card(
            "Sequence",
            html!("{}", number(&watermark["sequence"])),
            html!("applied {}", when(&watermark["applied_at"])),
        ),
        card(
            "Revocations in force",
            html!("{}", grouped(total)),
            html!("{}", size(stats["memory_bytes"].as_f64().unwrap_or(0.0))),
        ),
        card("Open streams", html!("{}", number(&stats["live_connections"])), none()),
        card(
            "Requests",
            html!("{}", grouped(figures.requests)),
            html!("{} refused", grouped(figures.refused)),
        ),
        card("Verified tokens kept", html!("{}", number(&cache["entries"])), html!("{}", share)),
        card(
            "Log",
            html!("{}", size(stats["log"]["bytes"].as_f64().unwrap_or(0.0))),
            html!(
                "segments: {}, last sync {} µs",
                stats["log"]["segments"],
                number(&stats["log"]["last_fsync_us"])
            ),
        ),
        card(
            "Snapshot",
            when(&stats["snapshot"]["at"]),
            html!("generations: {}", stats["snapshot"]["generations"]),
        ),
    ]
    .into_iter()
    .collect();
    let by_kind = entries.iter().map(|(kind, n)| vec![html!("{}", kind), html!("{}", number(n))]).collect();
    let by_code = figures
        .codes
        .iter()
        .map(|(code, n)| vec![html!("<code>{}</code>", code), html!("{}", grouped(*n))])
        .collect();
    let targets: Vec<Vec<Html>> = rows(&upstreams).iter().flat_map(targets).collect();
    let content = html!(
        "<section data-refresh=\"5\" id=\"figures\"><dl class=\"cards\">{}</dl><div class=\"columns\"><section><h2>In force, by kind</h2>{}</section>\
         <section><h2>Refusals, by code</h2>{}</section></div><h2>Upstreams</h2>{}</section>",
        cards,
        table("Revocations in force by kind", &["kind", "entries"], by_kind, "Nothing is revoked."),
        table(
            "Refusals by code",
            &["code", "since the start"],
            by_code,
            "Nothing was refused since the start."
        ),
        table("Targets", &TARGET_HEAD, targets, "There are no upstreams.")
    );
    page(asked, "/", "Overview", content)
}

/// What the metrics say of requests.
struct Figures {
    requests: f64,
    refused: f64,
    codes: Vec<(String, f64)>,
}

impl Figures {
    fn of(text: &str) -> Self {
        let sample = |line: &str| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
        let all = |name: &'static str| text.lines().filter(move |line| line.starts_with(name));
        let mut codes: Vec<(String, f64)> = all("portcullis_refusals_total{")
            .filter_map(|line| Some((line.split('"').nth(1)?.to_owned(), sample(line)?)))
            .filter(|(_, count)| *count > 0.0)
            .collect();
        codes.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Self {
            requests: all("portcullis_requests_total{").filter_map(sample).sum(),
            refused: codes.iter().map(|(_, count)| count).sum(),
            codes,
        }
    }
}

fn rows(answer: &Value) -> Vec<Value> {
    answer["data"].as_array().cloned().unwrap_or_default()
}

const TARGET_HEAD: [&str; 7] =
    ["upstream", "target", "state", "in flight", "connections", "attempts", "failures"];

fn targets(upstream: &Value) -> Vec<Vec<Html>> {
    let of = |target: &Value| {
        let state = match target["state"].as_str().unwrap_or_default() {
            "healthy" => badge("good", "healthy"),
            other => badge("bad", other),
        };
        let mut row = vec![html!("{}", upstream["name"]), html!("<code>{}</code>", target["url"]), state];
        let counts = ["in_flight", "connections", "requests_total", "failures_total"];
        row.extend(counts.map(|name| html!("{}", grouped(target[name].as_f64().unwrap_or_default()))));
        row
    };
    upstream["targets"].as_array().map(|targets| targets.iter().map(of).collect()).unwrap_or_default()
}

/// `GET /ui/upstreams`.
pub(super) async fn upstreams(State(pages): State<Ours>, Extension(asked): Extension<Asked>) -> Response {
    let content = match pages.ask(&asked.from, Method::GET, "/admin/upstreams", None).await {
        Ok(answer) => {
            let rows = rows(&answer).iter().flat_map(targets).collect();
            let table = table("Targets", &TARGET_HEAD, rows, "There are no upstreams.");
            html!("<section data-refresh=\"5\" id=\"targets\">{}</section>", table)
        }
        Err(words) => failed(&words),
    };
    page(&asked, "/ui/upstreams", "Upstreams", content)
}

/// `GET /ui/routes`.
pub(super) async fn routes(State(pages): State<Ours>, Extension(asked): Extension<Asked>) -> Response {
    let content = match pages.ask(&asked.from, Method::GET, "/admin/routes", None).await {
        Ok(answer) => {
            let any = |value: &Value, word: &str| match value {
                Value::String(text) if text.is_empty() => html!("<i>{}</i>", word),
                Value::Array(items) if items.is_empty() => html!("<i>{}</i>", word),
                value => html!("{}", value),
            };
            let row = |route: &Value| {
                let mode = if route["mode"] == "shadow" {
                    badge("warn", "shadow")
                } else {
                    badge("good", "enforce")
                };
                vec![
                    html!("<b>{}</b>", route["name"]),
                    any(&route["host"], "any"),
                    html!("<code>{}</code>", route["path"]),
                    any(&route["methods"], "all"),
                    html!("{}", route["auth"]),
                    any(&route["scopes"], "none"),
                    any(&route["issuers"], "any"),
                    mode,
                ]
            };
            let head = ["name", "host", "path", "methods", "needs", "scopes", "issuers", "mode"];
            table("Routes", &head, rows(&answer).iter().map(row).collect(), "There are no routes.")
        }
        Err(words) => failed(&words),
    };
    page(&asked, "/ui/routes", "Routes", content)
}

/// `GET /ui/keys`.
pub(super) async fn keys(State(pages): State<Ours>, Extension(asked): Extension<Asked>) -> Response {
    let content = match pages.ask(&asked.from, Method::GET, "/admin/keys?limit=1000", None).await {
        Ok(answer) => {
            let row = |key: &Value| {
                let state = key["state"].as_str().unwrap_or_default();
                let badge = badge(
                    match state {
                        "signing" => "good",
                        "verifying" => "warn",
                        _ => "",
                    },
                    state,
                );
                let retire = match state {
                    "verifying" => html!(
                        "<form method=\"post\" data-confirm=\"Retire this key? Its tokens are refused from then on.\">{}\
                         <input type=\"hidden\" name=\"kid\" value=\"{}\"><label class=\"inline\"><input type=\"checkbox\" name=\"revoke\" value=\"true\"> \
                         and revoke</label> <button class=\"danger\">Retire</button></form>",
                        csrf(&asked),
                        key["kid"]
                    ),
                    _ => Html::default(),
                };
                vec![
                    html!("<code>{}</code>", key["kid"]),
                    html!("{}", key["algorithm"]),
                    badge,
                    when(&key["created"]),
                    when(&key["not_after"]),
                    retire,
                ]
            };
            let rotate = html!(
                "<form method=\"post\" class=\"bar\" data-confirm=\"Sign with a new key from now on?\">{}<label>Overlap <input name=\"overlap\" placeholder=\"as long as tokens live\" size=\"22\"></label>\
                 <button>Rotate</button></form><p class=\"hint\">A new key signs; the others verify until the overlap ends.</p>",
                csrf(&asked)
            );
            let head = ["key id", "algorithm", "state", "made", "verifies until", ""];
            html!(
                "{}{}",
                table("Keys", &head, rows(&answer).iter().map(row).collect(), "There are no keys."),
                rotate
            )
        }
        Err(words) => failed(&words),
    };
    page(&asked, "/ui/keys", "Keys", content)
}

/// `POST /ui/keys`: rotates, or retires the key that is named.
pub(super) async fn change_key(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    Form(form): Form<Value>,
) -> Response {
    if !asked.session.made(text(&form, "csrf")) {
        return refused();
    }
    let (path, body) = match text(&form, "kid") {
        "" => match text(&form, "overlap") {
            "" => ("/admin/keys/rotate".to_owned(), json!({})),
            overlap => ("/admin/keys/rotate".to_owned(), json!({ "overlap": overlap })),
        },
        kid => {
            let revoke = text(&form, "revoke") == "true";
            (format!("/admin/keys/{}/retire", encoded(kid)), json!({ "revoke": revoke }))
        }
    };
    let done = pages.ask(&asked.from, Method::POST, &path, Some(body)).await;
    let told = done.map(|key| format!("Done. {} signs now.", key["signing"].as_str().unwrap_or("A key")));
    pages.back(&asked.session, told, "/ui/keys")
}

fn form_of(asked: &Asked, given: &Value) -> Html {
    html!(
        "<form method=\"post\" class=\"stack\">{}<label>Token <textarea name=\"token\" rows=\"4\" required spellcheck=\"false\" autocomplete=\"off\"></textarea></label>\
         <div class=\"bar\"><label>Method <input name=\"method\" size=\"8\" value=\"{}\" placeholder=\"GET\"></label>\
         <label>Host <input name=\"host\" value=\"{}\" placeholder=\"any\"></label><label>Path <input name=\"path\" value=\"{}\" placeholder=\"/\"></label>\
         <button>Explain</button></div></form><p class=\"hint\">Nothing is changed by it, and the token is not kept.</p>",
        csrf(asked),
        text(given, "method"),
        text(given, "host"),
        text(given, "path")
    )
}

/// `GET /ui/explain`.
pub(super) async fn explain(Extension(asked): Extension<Asked>) -> Response {
    let form = form_of(&asked, &Value::Null);
    page(&asked, "/ui/explain", "Explain a token", form)
}

/// `POST /ui/explain`: what would become of a request with this token, step by step.
pub(super) async fn explained(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    Form(given): Form<Value>,
) -> Response {
    if !asked.session.made(text(&given, "csrf")) {
        return refused();
    }
    let mut question = json!({ "token": text(&given, "token") });
    for name in ["method", "host", "path"] {
        if !text(&given, name).is_empty() {
            question[name] = text(&given, name).into();
        }
    }
    let outcome = match pages.ask(&asked.from, Method::POST, "/admin/explain", Some(question)).await {
        Ok(answer) => {
            let step = |step: &Value| {
                let mark = if step["ok"] == true { badge("good", "ok") } else { badge("bad", "no") };
                vec![mark, html!("<b>{}</b>", step["step"]), html!("{}", step["detail"])]
            };
            let steps =
                answer["steps"].as_array().map(|steps| steps.iter().map(step).collect()).unwrap_or_default();
            let (kind, code) = match answer["code"].as_str() {
                None => ("good", Html::default()),
                Some(code) => ("bad", html!(" <code>{}</code>", code)),
            };
            let verdict = badge(kind, answer["verdict"].as_str().unwrap_or_default());
            html!(
                "<p class=\"verdict\" role=\"status\">{}{}</p>{}",
                verdict,
                code,
                table("Steps", &["", "step", "detail"], steps, "No steps.")
            )
        }
        Err(words) => failed(&words),
    };
    let form = form_of(&asked, &given);
    page(&asked, "/ui/explain", "Explain a token", html!("{}{}", form, outcome))
}
