//! Client authentication: Basic or in the body (RFC 6749 §2.3.1), or by a signed assertion (RFC 7523 §2.2); never in
//! two ways at once.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::OauthError;
use super::assertion::{self, Rejected};
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::{Fields, form_decoded};
use crate::endpoint::settings::{Client, Credential};

/// Longer credentials are nobody's.
const CREDENTIAL_BYTES_MAX: usize = 1024;

/// A client's id and secret, as given.
type Credentials = (String, Zeroizing<String>);

impl Endpoints {
    /// The client that the request authenticates; `None` when it does not try to. A `client_id` of nobody we know,
    /// without a secret, is a public client's and says nothing.
    ///
    /// # Errors
    /// 401 for bad credentials; 400 for two kinds of them at once.
    pub(super) async fn client(&self, call: &Call, fields: &Fields) -> Result<Option<&Client>, OauthError> {
        let basic = self.basic(call)?;
        let id = fields.text("client_id", CREDENTIAL_BYTES_MAX)?;
        let secret = fields.text("client_secret", CREDENTIAL_BYTES_MAX)?;
        let kind = fields.text("client_assertion_type", CREDENTIAL_BYTES_MAX)?;
        let assertion = fields.text("client_assertion", call.body.len())?;
        if kind.is_some() || assertion.is_some() {
            if basic.is_some() || secret.is_some() {
                return Err(OauthError::invalid_request("The client authenticates in two ways"));
            }
            let (Some(assertion::TYPE), Some(assertion)) = (kind, assertion) else {
                return Err(OauthError::invalid_client(&self.parts.realm));
            };
            return match self.asserted(call, assertion).await {
                Ok(client) if id.is_none_or(|id| *id == *client.id) => Ok(Some(client)),
                Ok(_) | Err(Rejected::Invalid) => Err(OauthError::invalid_client(&self.parts.realm)),
                Err(Rejected::Overloaded) => Err(OauthError::overloaded()),
            };
        }
        let tried: Vec<(&str, &[u8])> = match (&basic, id, secret) {
            (Some(_), _, Some(_)) => {
                return Err(OauthError::invalid_request("The client authenticates in two ways"));
            }
            (Some(spellings), Some(id), None) if spellings.iter().all(|(basic_id, _)| **basic_id != *id) => {
                return Err(OauthError::invalid_request("The request names two clients"));
            }
            (Some(spellings), ..) => {
                spellings.iter().map(|(id, secret)| (&**id, secret.as_bytes())).collect()
            }
            (None, Some(id), Some(secret)) => vec![(id, secret.as_bytes())],
            (None, Some(id), None) => {
                let ours = self.parts.clients.iter().any(|client| *client.id == *id);
                return if ours { Err(OauthError::invalid_client(&self.parts.realm)) } else { Ok(None) };
            }
            (None, None, Some(_)) => return Err(OauthError::invalid_client(&self.parts.realm)),
            (None, None, None) => return Ok(None),
        };
        let good = |client: &&Client| match &client.credential {
            Credential::Secret(ours) => {
                tried.iter().any(|(id, secret)| *client.id == **id && same(ours, secret))
            }
            Credential::Key(_) => false,
        };
        let found = self.parts.clients.iter().find(good);
        found.map(Some).ok_or_else(|| OauthError::invalid_client(&self.parts.realm))
    }

    /// Whether the request carries the admin token.
    pub(super) fn is_admin(&self, call: &Call) -> bool {
        let given = call.bearer().ok().flatten();
        matches!((given, &self.parts.admin_token), (Some(given), Some(token)) if same(token, given.as_bytes()))
    }

    /// Id and secret of Basic credentials, in the two spellings in use: form-encoded within, as RFC 6749 §2.3.1 has
    /// it, and as they are, as `curl -u` sends them.
    fn basic(&self, call: &Call) -> Result<Option<[Credentials; 2]>, OauthError> {
        let mut values = call.headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(OauthError::invalid_request("There is more than one Authorization field"));
        }
        let text = value.to_str().unwrap_or_default();
        let Some((_, encoded)) =
            text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Basic"))
        else {
            return Ok(None);
        };
        let bad = || OauthError::invalid_client(&self.parts.realm);
        let bytes = Zeroizing::new(STANDARD.decode(encoded.trim()).map_err(|_| bad())?);
        let pair = std::str::from_utf8(&bytes).map_err(|_| bad())?;
        let (id, secret) = pair.split_once(':').ok_or_else(bad)?;
        let decoded = |part: &str| form_decoded(part).unwrap_or_else(|| part.to_owned());
        Ok(Some([
            (decoded(id), Zeroizing::new(decoded(secret))),
            (id.to_owned(), Zeroizing::new(secret.to_owned())),
        ]))
    }
}

/// Whether two secrets are the same, in a time that tells nothing of either.
fn same(ours: &[u8], given: &[u8]) -> bool {
    let hash = |bytes| digest::digest(&digest::SHA256, bytes);
    hash(ours).as_ref().ct_eq(hash(given).as_ref()).into()
}
