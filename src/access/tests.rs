//! The decision over made-up routes and tokens: each check, and which of two speaks first.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::revocation::{Selector, TokenKeys};
use crate::route::fixtures::route;
use crate::token::KeptClaims;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

struct Case {
    route: Route,
    token: VerifiedToken,
    standing: Standing,
    revoked: Vec<Selector>,
}

fn case() -> Case {
    Case {
        route: Route { auth: Requirement::Access, ..route() },
        token: VerifiedToken {
            issuer: "self".into(),
            token_id: "t-1".into(),
            subject: Some("ada".into()),
            session: Some("s-1".into()),
            client: None,
            other_clients: Box::default(),
            key_id: None,
            scopes: ["read".into()].into(),
            token_type: TokenType::Access,
            issued_at: Some(NOW),
            expires_at: UnixTime::from_secs(NOW.secs() + 60),
            fresh_until: None,
            binding: None,
            claims: claims(json!({})),
        },
        standing: Standing::Good,
        revoked: Vec::new(),
    }
}

fn claims(object: Value) -> KeptClaims {
    object.as_object().unwrap().into()
}

impl Case {
    fn decide(self) -> Result<Permit, Refusal> {
        let keys = TokenKeys::of(&self.token, &[]);
        let known = Arc::new(KnownToken::for_test(self.token, keys));
        let blocklist = Blocklist::holding(&self.revoked);
        decide(
            &Arc::new(self.route),
            Evidence::Token(Admitted::for_explaining(known), self.standing),
            &blocklist,
            NOW,
        )
    }

    fn code(self) -> Option<Code> {
        self.decide().err().map(|refusal| refusal.problem.code())
    }
}

fn without_token(auth: Requirement) -> Option<Code> {
    let route = Arc::new(Route { auth, ..route() });
    let blocklist = Blocklist::holding(&[]);
    decide(&route, Evidence::Absent, &blocklist, NOW).err().map(|refusal| refusal.problem.code())
}

#[test]
fn a_missing_token_passes_only_where_none_is_asked_for() {
    assert_eq!(without_token(Requirement::Public), None);
    assert_eq!(without_token(Requirement::Optional), None);
    for auth in [Requirement::Access, Requirement::Refresh, Requirement::Fresh] {
        assert_eq!(without_token(auth), Some(Code::TokenMissing));
    }
}

#[test]
fn a_good_token_passes_and_vouches_for_its_subject() {
    let permit = case().decide().unwrap();
    assert_eq!(permit.token().unwrap().token.subject.as_deref(), Some("ada"));
    assert_eq!(permit.shadowed(), None);
}

#[test]
fn an_unusable_token_is_refused_even_where_it_is_optional() {
    for auth in [Requirement::Optional, Requirement::Access] {
        let problem = Problem::new(Code::TokenExpired, "the token has expired");
        let route = Arc::new(Route { auth, ..route() });
        let refusal = decide(&route, Evidence::Unusable(problem), &Blocklist::holding(&[]), NOW).unwrap_err();
        assert_eq!(refusal.problem.code(), Code::TokenExpired);
    }
}

#[test]
fn each_check_refuses() {
    let refused = |change: fn(&mut Case), code: Code| {
        let mut case = case();
        change(&mut case);
        assert_eq!(case.code(), Some(code));
    };
    refused(|case| case.route.issuers = vec!["legacy".into()], Code::TokenInvalid);
    refused(|case| case.standing = Standing::Unknown, Code::TokenInvalid);
    refused(|case| case.token.token_type = TokenType::Refresh, Code::TokenInvalid);
    refused(|case| case.route.auth = Requirement::Refresh, Code::TokenInvalid);
    refused(|case| case.route.auth = Requirement::Fresh, Code::TokenNotFresh);
    refused(|case| case.standing = Standing::Retired, Code::TokenRevoked);
    refused(|case| case.route.scopes = vec!["write".into()], Code::InsufficientScope);
    refused(|case| case.route.require_claims = vec![("role".into(), vec!["admin".into()])], Code::Forbidden);
    use crate::revocation::Kind::{Session, Subject, Token};
    for (kind, value) in [(Token, "t-1"), (Session, "s-1"), (Subject, "ada")] {
        let case = Case { revoked: vec![Selector::new(kind, "self", value)], ..case() };
        assert_eq!(case.code(), Some(Code::TokenRevoked), "{value}");
    }
}

/// Everything is wrong at once; what speaks first is mended, and the next one speaks.
#[test]
fn checks_speak_in_the_order_of_the_contract() {
    let all_wrong = || Case {
        route: Route {
            auth: Requirement::Fresh,
            scopes: vec!["write".into()],
            require_claims: vec![("role".into(), vec!["admin".into()])],
            ..route()
        },
        token: VerifiedToken { token_type: TokenType::Refresh, ..case().token },
        standing: Standing::Retired,
        revoked: vec![],
    };
    type Mend = (Code, fn(&mut Case));
    let mends: [Mend; 5] = [
        (Code::TokenInvalid, |case| case.token.token_type = TokenType::Access),
        (Code::TokenNotFresh, |case| case.token.fresh_until = Some(UnixTime::from_secs(NOW.secs() + 1))),
        (Code::TokenRevoked, |case| case.standing = Standing::Good),
        (Code::InsufficientScope, |case| case.token.scopes = ["write".into()].into()),
        (Code::Forbidden, |case| case.token.claims = claims(json!({ "role": "admin" }))),
    ];
    for mended in 0..=mends.len() {
        let mut case = all_wrong();
        mends[..mended].iter().for_each(|(_, mend)| mend(&mut case));
        assert_eq!(case.code(), mends.get(mended).map(|(code, _)| *code), "{mended} mended");
    }
}

#[test]
fn freshness_ends_at_its_second() {
    let at = |until| {
        let mut case = case();
        case.route.auth = Requirement::Fresh;
        case.token.fresh_until = Some(until);
        case.code()
    };
    assert_eq!(at(UnixTime::from_millis(NOW.millis() + 1)), None);
    assert_eq!(at(NOW), Some(Code::TokenNotFresh));
}

#[test]
fn a_claim_has_one_of_the_values_alone_or_in_an_array() {
    let has = |value: Value| {
        let mut case = case();
        case.route.require_claims = vec![("role".into(), vec!["admin".into(), "7".into(), "true".into()])];
        case.token.claims = claims(json!({ "role": value }));
        case.code().is_none()
    };
    for good in [json!("admin"), json!(7), json!(true), json!(["user", "admin"]), json!([7])] {
        assert!(has(good.clone()), "{good}");
    }
    for bad in [json!("Admin"), json!(["user"]), json!({ "admin": true }), json!(null), json!([["admin"]])] {
        assert!(!has(bad.clone()), "{bad}");
    }
}

#[test]
fn a_shadow_route_lets_pass_but_vouches_for_nobody() {
    let mut case = case();
    case.route.shadow = true;
    case.revoked = vec![Selector::new(crate::revocation::Kind::Token, "self", "t-1")];
    let permit = case.decide().unwrap();
    assert_eq!(permit.shadowed(), Some(Code::TokenRevoked));
    assert!(permit.token().is_none());
}
