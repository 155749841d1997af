//! The dashboard: what its pages say, who gets in, what they change; and a real browser that revokes by them.

use serde_json::json;

use crate::support::chromium::Chromium;
use crate::support::{Account, Answer, Call, Gateway, Setup, Upstream, wait_for};

/// The origin that the raw client's `Host` stands for.
const OWN: &str = "http://gateway.test";

fn start() -> Gateway {
    let upstream = Upstream::echo();
    Setup::new()
        .upstream("api", upstream.address())
        .route("api", "/api", "api", "access")
        .route("open", "/open", "api", "public")
        .start()
}

/// A browser's part: the cookie of a session, and what its forms repeat.
struct Desk<'g> {
    gateway: &'g Gateway,
    cookie: String,
    csrf: String,
}

fn form(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Call {
    Call::new(gateway.admin_address(), "POST", path).form(fields)
}

impl<'g> Desk<'g> {
    fn sign_in(gateway: &'g Gateway) -> Self {
        let answer = form(gateway, "/ui/sign-in", &[("token", gateway.admin_token())]).send().expect(303);
        let set = answer.header("set-cookie").unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(set.contains(part), "{set}");
        }
        assert!(!set.contains(gateway.admin_token()), "the token is not in the cookie");
        let cookie = set.split(';').next().unwrap().to_owned();
        let mut desk = Self { gateway, cookie, csrf: String::new() };
        let page = desk.get("/").expect(200).text();
        desk.csrf =
            page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        desk
    }

    fn get(&self, path: &str) -> Answer {
        Call::new(self.gateway.admin_address(), "GET", path).header("Cookie", &self.cookie).send()
    }

    fn post_as(&self, path: &str, fields: &[(&str, &str)], csrf: &str, origin: &str) -> Answer {
        let fields: Vec<(&str, &str)> = fields.iter().copied().chain([("csrf", csrf)]).collect();
        form(self.gateway, path, &fields).header("Cookie", &self.cookie).header("Origin", origin).send()
    }

    fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.post_as(path, fields, &self.csrf, OWN)
    }

    /// The page that a change leads to.
    #[track_caller]
    fn change(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let answer = self.post(path, fields).expect(303);
        self.get(answer.header("location").unwrap()).expect(200).text()
    }
}

#[test]
fn nobody_gets_in_without_the_token_and_no_other_page_acts() {
    let gateway = start();
    let anonymous = |path: &str| Call::new(gateway.admin_address(), "GET", path).send();
    let door = anonymous("/").expect(401);
    assert!(door.text().contains("Admin token") && !door.text().contains("Revocations"));
    for header in ["content-security-policy", "x-frame-options", "x-content-type-options"] {
        assert!(door.header(header).is_some(), "{header}");
    }
    assert!(!door.header("content-security-policy").unwrap().contains("unsafe"));
    for path in ["/ui/revocations", "/ui/users", "/ui/feed", "/ui/keys", "/ui/users/x"] {
        assert_eq!(anonymous(path).expect(303).header("location"), Some("/"), "{path}");
    }
    form(&gateway, "/ui/sign-in", &[("token", "wrong")]).send().expect(401);
    let elsewhere = form(&gateway, "/ui/sign-in", &[("token", gateway.admin_token())]);
    elsewhere.header("Origin", "http://127.0.0.1:1").send().expect(403);

    let desk = Desk::sign_in(&gateway);
    let what = [("kind", "subject"), ("value", "ada")];
    desk.post_as("/ui/revocations", &what, "", OWN).expect(403);
    desk.post_as("/ui/revocations", &what, &desk.csrf, "http://127.0.0.1:1").expect(403);
    desk.post_as("/ui/revocations", &what, &desk.csrf, "null").expect(403);
    assert_eq!(gateway.entry("subject", "ada", "self").status, 404);
    // The session is for pages; the API takes its token alone.
    Call::new(gateway.admin_address(), "GET", "/admin/stats")
        .header("Cookie", &desk.cookie)
        .send()
        .expect(401);
    desk.post("/ui/sign-out", &[]).expect(303);
    assert!(desk.get("/").expect(401).text().contains("Admin token"));
    desk.get("/ui/keys").expect(303);
}

#[test]
fn what_a_page_changes_is_in_force_and_what_clients_send_is_shown_as_text() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let id = ada.user["id"].as_str().unwrap();
    let desk = Desk::sign_in(&gateway);
    gateway.get("/api").bearer(&ada.access).send().expect(200);

    let page = desk.change(
        "/ui/revocations",
        &[("kind", "subject"), ("value", id), ("reason", "<script>alert(1)</script>")],
    );
    assert!(
        page.contains("in force and on disk")
            && page.contains("&lt;script&gt;")
            && !page.contains("<script>alert")
    );
    gateway.get("/api").bearer(&ada.access).send().expect_problem(401, "token_revoked");
    let page = desk.change("/ui/unrevoke", &[("kind", "subject"), ("value", id), ("issuer", "self")]);
    assert!(page.contains("Taken back"), "{page}");
    assert!(desk.change("/ui/revocations", &[("kind", "subject")]).contains("notice bad"));

    let ada = Account::sign_in(&gateway, "ada@example.com");
    let page = desk.get(&format!("/ui/users/{id}")).expect(200).text();
    let session = page.split("name=\"value\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let page = desk.change(
        "/ui/revocations",
        &[("kind", "session"), ("value", &session), ("issuer", "self"), ("back", id)],
    );
    assert!(page.contains("revoked") && page.contains("ada@example.com"));
    gateway.get("/api").bearer(&ada.access).send().expect(401);
    assert!(desk.change(&format!("/ui/users/{id}"), &[("action", "disable")]).contains("disabled"));
    assert!(desk.change(&format!("/ui/users/{id}"), &[("action", "enable")]).contains("Enabled"));

    let before =
        gateway.admin("GET", "/admin/keys").send().expect(200).json()["data"].as_array().unwrap().len();
    assert!(desk.change("/ui/keys", &[]).contains("signs now"));
    let after =
        gateway.admin("GET", "/admin/keys").send().expect(200).json()["data"].as_array().unwrap().len();
    assert_eq!(after, before + 1);

    let explained = desk.post("/ui/explain", &[("token", &ada.access), ("path", "/api")]).expect(200).text();
    assert!(explained.contains("token_revoked") && !explained.contains(&ada.access));
    for (path, words) in [
        ("/", "Revocations in force"),
        ("/ui/revocations?all=true", "Unrevoke"),
        ("/ui/events", "data-feed"),
        ("/ui/users?email=ada%40example.com", "ada@example.com"),
        ("/ui/routes", "/api"),
        ("/ui/upstreams", "healthy"),
        ("/ui/explain", "textarea"),
    ] {
        let page = desk.get(path).expect(200).text();
        assert!(page.contains(words), "{words} on {path}: {page}");
        assert!(!page.contains("style=") && !page.contains("onclick"), "nothing inline on {path}");
    }
}

/// Drives the pages as a person does, in a frame-less browser: a script of the test's own, started by Chromium's
/// debugging port, types the token, fills the form, presses the button.
#[test]
fn a_browser_signs_in_and_revokes_and_the_next_request_is_refused() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let id = ada.user["id"].as_str().unwrap();
    let mut browser = Chromium::driven(&format!("http://{}/", gateway.admin_address()));
    browser.until("document.querySelector('#token') !== null");
    let token = serde_json::Value::from(gateway.admin_token());
    browser.run(&format!(
        "document.querySelector('#token').value = {token}; document.querySelector('.door button').click()"
    ));
    browser.until("document.querySelector('h1')?.textContent === 'Overview'");
    assert_eq!(browser.run("document.cookie"), json!(""), "no script reads the session");
    browser.run("location.href = '/ui/events'");
    browser.until("document.querySelector('.feed.live') !== null");
    gateway.revoke(&json!({ "kind": "session", "value": "seen-live" }));
    browser.until("document.querySelector('main tbody')?.textContent.includes('seen-live')");
    browser.run("location.href = '/ui/revocations?revoke=1'");
    browser.until("document.querySelector('.panel[open] [name=value]') !== null");
    gateway.get("/api").bearer(&ada.access).send().expect(200);
    browser.run(&format!(
        "window.confirm = () => true; const panel = document.querySelector('.panel'); \
         panel.querySelector('[name=kind]').value = 'subject'; panel.querySelector('[name=value]').value = '{id}'; \
         panel.querySelector('button').click()"
    ));
    browser.until("document.querySelector('.notice.good') !== null");
    gateway.get("/api").bearer(&ada.access).send().expect_problem(401, "token_revoked");
    if let Some(dir) = std::env::var_os("PORTCULLIS_SCREENSHOTS") {
        for (name, path) in [
            ("overview", "/"),
            ("revocations", "/ui/revocations?revoke=1"),
            ("events", "/ui/events"),
            ("user", &format!("/ui/users/{id}")),
            ("keys", "/ui/keys"),
            ("routes", "/ui/routes"),
        ] {
            browser.run(&format!("location.href = '{path}'"));
            browser.until(&format!(
                "location.pathname + location.search === '{path}' && document.readyState === 'complete'"
            ));
            browser.picture(&std::path::Path::new(&dir).join(format!("{name}.png")));
        }
    }
    wait_for("the trail of the page", || {
        let list = gateway.admin("GET", "/admin/revocations?kind=subject").send().expect(200).json();
        (list["data"][0]["actor"] == "admin").then_some(())
    });
}
