//! What was asked for and what was answered: from that, what must be in force, and what may be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::seed::Rng;
use crate::support::http::encoded;
use crate::support::jwt::{Key, claims};
use crate::support::{Answer, Call, Connection, Gateway, Setup, Upstream, now};

/// The issuer whose tokens are revoked here.
const ISSUER: &str = "legacy";
/// Requests on their way at once.
const PIPELINE: usize = 16;

/// The key of [`ISSUER`].
pub(crate) fn legacy() -> Key {
    Key::secret(ISSUER)
}

/// A gateway with this issuer, and one route that wants its tokens.
pub(crate) fn setup() -> Setup {
    with_issuer(Setup::without_auth())
}

/// When tokens were issued: before anything else happened.
static ISSUED: OnceLock<i64> = OnceLock::new();

fn issued() -> i64 {
    *ISSUED.get_or_init(|| now() - 1)
}

/// The issuer and the route, on any setup.
pub(crate) fn with_issuer(setup: Setup) -> Setup {
    issued();
    setup
        .server("access_log = \"off\"")
        .secret("legacy.key", legacy().secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("up", Upstream::new(|_| crate::support::Reply::json(&json!({}))).address())
        .route("api", "/", "up", "access")
}

/// The kinds that tests revoke by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Token,
    Session,
    Subject,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Token, Kind::Session, Kind::Subject];

/// A selector of [`ISSUER`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selector {
    pub(crate) kind: Kind,
    pub(crate) value: String,
}

/// What becomes of a token that a selector matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted,
    /// With the cutoff of a subject.
    Refused(Option<i64>),
}

/// Changes asked for in one request: all of them come about, or none.
pub(crate) type Changes = Vec<(Selector, Fate)>;

/// What the gateway was told, and what it said to that.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    fates: BTreeMap<Selector, Fate>,
    /// Requests without an answer.
    unanswered: Vec<Changes>,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Subject => "subject",
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.value)
    }
}

impl Selector {
    pub(crate) fn new(kind: Kind, value: impl Into<String>) -> Self {
        Self { kind, value: value.into() }
    }

    /// What revokes it: `Refused`, as an item of `POST /admin/revocations`.
    pub(crate) fn item(&self, fate: Fate) -> Value {
        let mut item = json!({ "kind": self.kind.name(), "issuer": ISSUER, "value": self.value });
        if let Fate::Refused(Some(cutoff)) = fate {
            item["issued_before"] = cutoff.into();
        }
        item
    }

    /// Its place in the admin API.
    pub(crate) fn target(&self) -> String {
        format!("/admin/revocations/{}/{}?issuer={ISSUER}", self.kind.name(), encoded(&self.value))
    }

    /// A token that it matches, and that nothing else matches; issued just before the cutoff, if there is one.
    pub(crate) fn token(&self, fate: Fate) -> String {
        let other = format!("other-{}", self.value);
        let iat = if let Fate::Refused(Some(cutoff)) = fate { cutoff - 1 } else { issued() };
        legacy().token(&match self.kind {
            Kind::Token => claims(&self.value, &json!({ "sub": other, "iat": iat })),
            Kind::Session => claims(&other, &json!({ "sub": other, "sid": self.value, "iat": iat })),
            Kind::Subject => claims(&other, &json!({ "sub": self.value, "iat": iat })),
        })
    }
}

impl Fate {
    /// Refused as far as a selector of this kind can be by a cutoff of a moment ago.
    pub(crate) fn refused(kind: Kind, rng: &mut Rng) -> Self {
        let ago = i64::try_from(rng.below(500)).unwrap();
        Self::Refused((kind == Kind::Subject).then(|| now() - ago))
    }

    /// What a second revocation makes of it: it never loosens the first.
    pub(crate) fn raised_by(self, other: Self) -> Self {
        match (self, other) {
            (Self::Refused(Some(old)), Self::Refused(Some(new))) => Self::Refused(Some(old.max(new))),
            _ => other,
        }
    }
}

impl Ledger {
    /// The gateway said that it has done this.
    pub(crate) fn acknowledged(&mut self, changes: Changes) {
        self.fates.extend(changes);
    }

    /// It said nothing: this may be done or not, but not by half.
    pub(crate) fn unanswered(&mut self, changes: Changes) {
        self.unanswered.push(changes);
    }

    /// What another thread knows, of selectors that this one knows nothing of.
    pub(crate) fn join(&mut self, other: Self) {
        self.fates.extend(other.fates);
        self.unanswered.extend(other.unanswered);
    }

    pub(crate) fn fate(&self, selector: &Selector) -> Fate {
        self.fates.get(selector).copied().unwrap_or(Fate::Accepted)
    }

    pub(crate) fn len(&self) -> usize {
        self.fates.len()
    }

    pub(crate) fn selectors(&self) -> Vec<Selector> {
        self.fates.keys().cloned().collect()
    }

    /// How many selectors of this kind must be refused.
    pub(crate) fn refused(&self, kind: Kind) -> usize {
        let counts =
            |(selector, fate): &(&Selector, &Fate)| selector.kind == kind && **fate != Fate::Accepted;
        self.fates.iter().filter(counts).count()
    }

    /// After a restart: looks how each request without an answer ended, fails if it ended by half, and takes that
    /// for the truth, since it may not change any more. Returns the selectors that it was about.
    pub(crate) fn settle(&mut self, gateway: &Gateway) -> Vec<Selector> {
        let mut seen = Vec::new();
        for changes in std::mem::take(&mut self.unanswered) {
            let selectors: Vec<Selector> = changes.iter().map(|(selector, _)| selector.clone()).collect();
            let found = observe(gateway, &selectors);
            let done = changes.iter().zip(&found).filter(|((_, fate), found)| fate == *found).count();
            let undone = selectors.iter().zip(&found).filter(|(s, found)| self.fate(s) == **found).count();
            assert!(
                done == found.len() || undone == found.len(),
                "half a batch: of {} changes {done} were made, {undone} were not: {:?}",
                found.len(),
                selectors.iter().zip(&found).collect::<Vec<_>>()
            );
            self.fates.extend(selectors.iter().cloned().zip(found));
            seen.extend(selectors);
        }
        seen
    }

    /// Fails unless each of these is exactly as it must be.
    #[track_caller]
    pub(crate) fn check(&self, gateway: &Gateway, selectors: &[Selector], when: &str) {
        let found = observe(gateway, selectors);
        let wrong: Vec<String> = selectors
            .iter()
            .zip(&found)
            .filter(|(selector, found)| self.fate(selector) != **found)
            .map(|(selector, found)| format!("{selector}: {found:?}, not {:?}", self.fate(selector)))
            .collect();
        assert!(wrong.is_empty(), "{when}: {} of {} are wrong: {wrong:#?}", wrong.len(), found.len());
    }

    /// Fails unless the gateway has exactly as many entries as there must be: none lost, none that nobody asked for.
    #[track_caller]
    pub(crate) fn check_counts(&self, gateway: &Gateway, when: &str) {
        let stats = gateway.admin("GET", "/admin/stats").send().expect(200).json();
        for kind in KINDS {
            let found = stats["entries"][kind.name()].as_u64().unwrap();
            assert_eq!(found, self.refused(kind) as u64, "{when}: entries of kind {}", kind.name());
        }
    }

    /// Fails unless requests with real tokens fare as they must.
    #[track_caller]
    pub(crate) fn check_requests(&self, gateway: &Gateway, selectors: &[Selector], when: &str) {
        let calls: Vec<Call> = selectors
            .iter()
            .map(|selector| gateway.get("/x").bearer(&selector.token(self.fate(selector))))
            .collect();
        let answers = pipelined(gateway.address(), &calls);
        for (selector, answer) in selectors.iter().zip(answers) {
            let want = match self.fate(selector) {
                Fate::Accepted => (200, String::new()),
                Fate::Refused(_) => (401, "token_revoked".to_owned()),
            };
            assert_eq!(answer.verdict(), want, "{when}: a request with {selector}");
        }
    }

    /// Fails unless every token that must be refused is refused, whatever else is refused too.
    #[track_caller]
    pub(crate) fn check_refusals(&self, gateway: &Gateway, when: &str) {
        let refused: Vec<&Selector> = self
            .fates
            .iter()
            .filter(|(_, fate)| **fate != Fate::Accepted)
            .map(|(selector, _)| selector)
            .collect();
        let request = |selector: &&Selector| gateway.get("/x").bearer(&selector.token(self.fate(selector)));
        let calls: Vec<Call> = refused.iter().map(request).collect();
        for (selector, answer) in refused.iter().zip(pipelined(gateway.address(), &calls)) {
            assert_eq!(
                answer.verdict(),
                (401, "token_revoked".to_owned()),
                "{when}: a request with {selector}"
            );
        }
    }

    /// Revokes or lifts, and fails unless that is acknowledged.
    #[track_caller]
    pub(crate) fn change(&mut self, gateway: &Gateway, selector: Selector, fate: Fate) {
        let call = match fate {
            Fate::Accepted => gateway.admin("DELETE", &selector.target()),
            Fate::Refused(_) => gateway.admin("POST", "/admin/revocations").json(&selector.item(fate)),
        };
        call.send().expect(200);
        let fate = self.fate(&selector).raised_by(fate);
        self.acknowledged(vec![(selector, fate)]);
    }

    /// Everything: each selector, the counts, and a request for some.
    #[track_caller]
    pub(crate) fn check_all(&self, gateway: &Gateway, rng: &mut Rng, when: &str) {
        let all = self.selectors();
        self.check(gateway, &all, when);
        self.check_counts(gateway, when);
        let some: Vec<Selector> = (0..all.len().min(60)).map(|_| rng.pick(&all).clone()).collect();
        self.check_requests(gateway, &some, when);
    }
}

/// What the gateway has in force for each of these.
pub(crate) fn observe(gateway: &Gateway, selectors: &[Selector]) -> Vec<Fate> {
    let calls: Vec<Call> =
        selectors.iter().map(|selector| gateway.admin("GET", &selector.target())).collect();
    pipelined(gateway.admin_address(), &calls).iter().map(fate_of).collect()
}

fn fate_of(answer: &Answer) -> Fate {
    match answer.status {
        404 => Fate::Accepted,
        200 => Fate::Refused(answer.json()["issued_before"].as_str().map(seconds)),
        _ => panic!("neither there nor not: {} {}", answer.status, answer.text()),
    }
}

fn seconds(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp()
}

/// Sends them over one connection, some at a time without waiting for answers.
pub(crate) fn pipelined(address: SocketAddr, calls: &[Call]) -> Vec<Answer> {
    let mut connection = Connection::open(address);
    let mut answers = Vec::with_capacity(calls.len());
    for some in calls.chunks(PIPELINE) {
        let bytes: Vec<u8> = some.iter().flat_map(Call::bytes).collect();
        connection.send(bytes);
        answers.extend(some.iter().map(|_| connection.answer("GET")));
    }
    answers
}
