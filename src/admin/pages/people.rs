//! Users, and their sessions.

use axum::Extension;
use axum::extract::{Form, Query, State};
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::super::query::InPath;
use super::html::{Html, badge, html, table, when};
use super::{Asked, Ours, csrf, encoded, failed, page, query, refused, text};
use crate::store::Page;

/// Sessions of one user that are shown.
const SESSIONS: usize = 100;

/// `GET /ui/users`.
pub(super) async fn list(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    Query(wanted): Query<Value>,
) -> Response {
    let path =
        query(&[("email", text(&wanted, "email")), ("after", text(&wanted, "after")), ("limit", "50")]);
    let found = match pages.ask(&asked.from, Method::GET, &format!("/admin/users{path}"), None).await {
        Ok(answer) => {
            let rows = answer["data"].as_array().cloned().unwrap_or_default();
            let row = |user: &Value| {
                let link = format!("/ui/users/{}", encoded(text(user, "id")));
                vec![
                    html!("<a href=\"{}\">{}</a>", link, user["email"]),
                    html!("{}", user["username"]),
                    html!("<code>{}</code>", user["id"]),
                    when(&user["createdon"]),
                    state(user),
                ]
            };
            let head = ["email", "name", "id", "since", ""];
            let more = answer["next"].as_str().map_or_else(Html::default, |after| {
                html!(
                    "<p><a class=\"more\" rel=\"next\" href=\"/ui/users{}\">More</a></p>",
                    query(&[("after", after)])
                )
            });
            html!(
                "{}{}",
                table("Users", &head, rows.iter().map(row).collect(), "There is nobody like that."),
                more
            )
        }
        Err(words) => failed(&words),
    };
    let search = html!(
        "<form method=\"get\" class=\"bar\" role=\"search\"><label>Email <input name=\"email\" type=\"search\" value=\"{}\" size=\"32\"></label>\
         <button class=\"quiet\">Search</button></form>",
        text(&wanted, "email")
    );
    page(&asked, "/ui/users", "Users", html!("{}{}", search, found))
}

fn state(user: &Value) -> Html {
    if user["disabled"] == true { badge("bad", "disabled") } else { badge("good", "enabled") }
}

/// `GET /ui/users/{id}`.
pub(super) async fn show(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    InPath(id): InPath<String>,
) -> Response {
    let user = pages.ask(&asked.from, Method::GET, &format!("/admin/users/{}", encoded(&id)), None).await;
    let sessions = pages.parts.store.sessions(&id, Page { before: None, limit: SESSIONS }).await;
    let (user, sessions) = match (user, sessions) {
        (Ok(user), Ok(sessions)) => (user, sessions),
        (Err(words), _) => return page(&asked, "/ui/users", "User", failed(&words)),
        _ => return page(&asked, "/ui/users", "User", failed("the store cannot be read now")),
    };
    let facts: Html = user
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "disabled")
        .map(|(name, value)| html!("<dt>{}</dt><dd>{}</dd>", name, value))
        .collect();
    let button = |action: &str, words: &str, kind: &str, question: &str| {
        html!(
            "<form method=\"post\" data-confirm=\"{}\">{}<input type=\"hidden\" name=\"action\" value=\"{}\"><button class=\"{}\">{}</button></form>",
            question,
            csrf(&asked),
            action,
            kind,
            words
        )
    };
    let turn = match user["disabled"] == true {
        true => button("enable", "Enable", "quiet", "Let this user sign in again?"),
        false => {
            button("disable", "Disable", "danger", "Disable this user? All their tokens are refused at once.")
        }
    };
    let revoke = button(
        "revoke",
        "Revoke everything",
        "danger",
        "Revoke all tokens of this user? A new sign-in works at once.",
    );
    let now = pages.parts.clock.now();
    let row = |row: &crate::store::SessionRow| {
        let session = &row.session;
        let state = match row.revoked_at {
            Some(_) => badge("warn", "revoked"),
            None if session.expires <= now => badge("", "expired"),
            None => html!(
                "<form method=\"post\" action=\"/ui/revocations\" data-confirm=\"Revoke this session?\">{}<input type=\"hidden\" name=\"kind\" value=\"session\">\
                 <input type=\"hidden\" name=\"value\" value=\"{}\"><input type=\"hidden\" name=\"issuer\" value=\"self\"><input type=\"hidden\" name=\"back\" value=\"{}\">\
                 <button class=\"danger\">Revoke</button></form>",
                csrf(&asked),
                &*session.id,
                id
            ),
        };
        let at = |time: crate::clock::UnixTime| when(&time.rfc3339().into());
        vec![
            html!("<code>{}</code>", &*session.id),
            at(session.created),
            at(row.last_issued_at),
            at(session.expires),
            html!("{}", &*session.address),
            html!("{}", &*session.user_agent),
            state,
        ]
    };
    let head = ["session", "signed in", "last token", "until", "address", "client", ""];
    let content = html!(
        "<p><a href=\"/ui/users\">All users</a></p><dl class=\"facts\">{}<dt>state</dt><dd>{}</dd></dl><div class=\"bar\">{}{}</div><h2>Sessions</h2>{}",
        facts,
        state(&user),
        turn,
        revoke,
        table("Sessions", &head, sessions.iter().map(row).collect(), "No session is known.")
    );
    page(&asked, "/ui/users", user["email"].as_str().unwrap_or("User"), content)
}

/// `POST /ui/users/{id}`.
pub(super) async fn act(
    State(pages): State<Ours>,
    Extension(asked): Extension<Asked>,
    InPath(id): InPath<String>,
    Form(form): Form<Value>,
) -> Response {
    if !asked.session.made(text(&form, "csrf")) {
        return refused();
    }
    let here = format!("/ui/users/{}", encoded(&id));
    let (action, words) = match text(&form, "action") {
        "disable" => ("disable", "Disabled; all tokens are refused."),
        "enable" => ("enable", "Enabled."),
        "revoke" => ("revoke", "Everything issued so far is revoked."),
        _ => return pages.back(&asked.session, Err("there is no such action".to_owned()), &here),
    };
    let path = format!("/admin/users/{}/{action}", encoded(&id));
    let done = pages.ask(&asked.from, Method::POST, &path, Some(json!({}))).await;
    pages.back(&asked.session, done.map(|_| words.to_owned()), &here)
}
