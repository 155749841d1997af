//! One account at the gateway's own auth endpoints, and its tokens.

use serde_json::{Value, json};

use super::{Answer, Gateway};

/// Meets the default password rule.
pub(crate) const PASSWORD: &str = "tr1cky-pass!word";

/// One login.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) user: Value,
}

impl Account {
    /// Makes the account and is signed in.
    #[track_caller]
    pub(crate) fn sign_up(gateway: &Gateway, email: &str) -> Self {
        Self::of(&credentials(gateway, "/auth/signup", email).expect(201))
    }

    /// Another login of an account that is there.
    #[track_caller]
    pub(crate) fn sign_in(gateway: &Gateway, email: &str) -> Self {
        Self::of(&credentials(gateway, "/auth/signin", email).expect(200))
    }

    /// The tokens in an answer of signup or signin.
    pub(crate) fn of(answer: &Answer) -> Self {
        let data = answer.json()["data"][0].clone();
        let text = |name: &str| data[name].as_str().unwrap_or_else(|| panic!("{name} in {data}")).to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token"), user: data["user"].clone() }
    }

    /// The answer of `/auth/refresh` to this account's refresh token.
    pub(crate) fn refreshed(&self, gateway: &Gateway) -> Answer {
        gateway.post("/auth/refresh").bearer(&self.refresh).send()
    }

    /// Its rows of `GET /auth/tokens`, newest first.
    #[track_caller]
    pub(crate) fn tokens(&self, gateway: &Gateway) -> Vec<Value> {
        let answer = gateway.get("/auth/tokens").bearer(&self.access).send().expect(200);
        answer.json()["data"].as_array().expect("an array of rows").clone()
    }
}

fn credentials(gateway: &Gateway, target: &str, email: &str) -> Answer {
    gateway.post(target).json(&json!({ "email": email, "password": PASSWORD })).send()
}
