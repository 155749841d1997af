//! JWTs (RFC 7519): credentials out of a request, verification, issuing. Pure: no I/O, no clock, `now` is given.
//!
//! What the room promises: [`verify`] gives a [`VerifiedToken`] only for a token of one of the issuers it was told of,
//! signed by a key of that issuer with the algorithm that the key is pinned to, whose form and claims leave no room
//! for two readings. It refuses to know where keys come from ([`crate::issuer`]), what is revoked, and what a route
//! asks for.

mod bearer;
mod binding;
mod claims;
mod cookie;
mod der;
mod dpop;
mod encoding;
mod error;
mod introspected;
mod issue;
mod json;
mod jws;
mod kept;
mod keys;
mod public;
mod replay;
mod signing;
mod statement;
mod steps;
mod terms;
#[cfg(test)]
mod tests;
mod types;
mod verify;

pub use bearer::{BearerError, Credentials, credentials};
pub use binding::{Binding, Possession, Scheme, Thumbprint};
pub use claims::{NAME_BYTES_MAX, SUBJECT_BYTES_MAX};
pub use cookie::{
    ACCESS_COOKIE, CSRF_COOKIE, DASHBOARD_COOKIE, Presented, REFRESH_COOKIE, Transport, cookie_name,
    own_cookie, presented, remove_own_cookies,
};
pub use dpop::{DPOP, PROOF_ALGORITHMS, Proof, ProofError, ProofFor, check_proof, proof_text};
pub use encoding::{NotBase64, decode_base64url, encode_base64url};
pub use error::{Part, VerifyError};
pub use introspected::{Introspected, introspected};
pub use issue::{IssueError, NewToken, issue, sign};
pub use json::{DEPTH_MAX, JsonError, json_object};
pub use kept::KeptClaims;
pub use keys::{KeyError, KeySet, Skipped};
pub use public::PublicKey;
pub use replay::{NotTaken, PROOF_REMEMBERED, Replays};
pub use signing::SigningKey;
pub use statement::{Statement, numeric_date, verify_statement};
pub use steps::{Step, Steps};
pub use terms::{Fresh, Terms, Typ};
pub use types::{Algorithm, ClaimNames, Claims, TokenType, VerifiedToken};
pub use verify::{Verified, verify};
