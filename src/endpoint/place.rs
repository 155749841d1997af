//! Which endpoint a path names.

use http::Method;
use percent_encoding::percent_decode_str;

use super::settings::Settings;
use super::well_known::origin;

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Signup,
    Signin,
    Refresh,
    Logout,
    LogoutAll,
    Password,
    Me,
    Tokens,
    Token(String),
    Sessions,
    Session(String),
    Jwks,
    Metadata,
    OauthToken,
    Revoke,
    Introspect,
    SecurityEvent,
    BackchannelLogout,
    /// Under one of our prefixes, and nothing there.
    Nothing,
}

impl Place {
    /// The endpoint at this path; `None`: the path is not ours.
    pub(super) fn find(path: &str, auth: Option<&Settings>) -> Option<Self> {
        match path {
            "/oauth2/revoke" => return Some(Self::Revoke),
            "/oauth2/introspect" => return Some(Self::Introspect),
            "/events/ssf" => return Some(Self::SecurityEvent),
            "/events/backchannel-logout" => return Some(Self::BackchannelLogout),
            _ => {}
        }
        let auth = auth?;
        match path {
            "/oauth2/token" => Some(Self::OauthToken),
            "/.well-known/jwks.json" => Some(Self::Jwks),
            "/.well-known/oauth-authorization-server" => Some(Self::Metadata),
            // RFC 8414 §3.1: the path of an issuer comes behind.
            _ if path
                .strip_prefix("/.well-known/oauth-authorization-server")
                .is_some_and(|rest| origin(&auth.own.issuer).is_some_and(|(_, path)| path == rest)) =>
            {
                Some(Self::Metadata)
            }
            _ => auth.prefixes.iter().find_map(|prefix| {
                let rest = path.strip_prefix(&**prefix)?;
                (rest.is_empty() || rest.starts_with('/')).then(|| Self::under_prefix(rest))
            }),
        }
    }

    fn under_prefix(rest: &str) -> Self {
        let mut segments = rest.split('/').skip(1);
        let (first, second) = (segments.next().unwrap_or_default(), segments.next());
        if segments.next().is_some() {
            return Self::Nothing;
        }
        match (first, second) {
            ("signup", None) => Self::Signup,
            ("signin", None) => Self::Signin,
            ("refresh", None) => Self::Refresh,
            ("logout", None) => Self::Logout,
            ("logout-all", None) => Self::LogoutAll,
            ("password", None) => Self::Password,
            ("me", None) => Self::Me,
            ("tokens" | "token", None) => Self::Tokens,
            ("tokens" | "token", Some(id)) => decoded(id).map_or(Self::Nothing, Self::Token),
            ("sessions", None) => Self::Sessions,
            ("sessions", Some(id)) => decoded(id).map_or(Self::Nothing, Self::Session),
            _ => Self::Nothing,
        }
    }

    /// The methods it takes, GET implying HEAD.
    pub(super) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Signup | Self::Signin | Self::Refresh | Self::LogoutAll | Self::Password => &[Method::POST],
            Self::OauthToken | Self::Revoke | Self::Introspect => &[Method::POST],
            Self::SecurityEvent | Self::BackchannelLogout => &[Method::POST],
            Self::Logout => &[Method::POST, Method::DELETE],
            Self::Me | Self::Sessions | Self::Jwks | Self::Metadata => &[Method::GET, Method::HEAD],
            Self::Tokens => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Token(_) => &[Method::PUT],
            Self::Session(_) => &[Method::DELETE],
            Self::Nothing => &[],
        }
    }
}

/// Every endpoint as `/auth` serves it, with its methods (HEAD goes without saying), for those that describe them.
pub fn catalogue() -> Vec<(&'static str, Vec<&'static str>)> {
    let paths = [
        ("/auth/signup", Place::Signup),
        ("/auth/signin", Place::Signin),
        ("/auth/refresh", Place::Refresh),
        ("/auth/logout", Place::Logout),
        ("/auth/logout-all", Place::LogoutAll),
        ("/auth/password", Place::Password),
        ("/auth/me", Place::Me),
        ("/auth/tokens", Place::Tokens),
        ("/auth/token", Place::Tokens),
        ("/auth/tokens/{token_id}", Place::Token(String::new())),
        ("/auth/token/{token_id}", Place::Token(String::new())),
        ("/auth/sessions", Place::Sessions),
        ("/auth/sessions/{id}", Place::Session(String::new())),
        ("/.well-known/jwks.json", Place::Jwks),
        ("/.well-known/oauth-authorization-server", Place::Metadata),
        ("/oauth2/token", Place::OauthToken),
        ("/oauth2/revoke", Place::Revoke),
        ("/oauth2/introspect", Place::Introspect),
        ("/events/ssf", Place::SecurityEvent),
        ("/events/backchannel-logout", Place::BackchannelLogout),
    ];
    let named = |place: &Place| -> Vec<&'static str> {
        place.methods().iter().filter(|method| **method != Method::HEAD).map(Method::as_str).collect()
    };
    paths.into_iter().map(|(path, place)| (path, named(&place))).collect()
}

/// An id out of a path segment; `None` when it cannot be one.
fn decoded(segment: &str) -> Option<String> {
    let id = percent_decode_str(segment).decode_utf8().ok()?;
    (!id.is_empty() && id.len() <= 255 && !id.contains(char::is_control)).then(|| id.into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::support;
    use super::*;

    fn check(path: &str, expected: Option<Place>) {
        let settings = support::settings();
        assert_eq!(Place::find(path, Some(&settings)), expected, "{path}");
    }

    #[test]
    fn every_mount_serves_the_same() {
        for prefix in ["/auth", "/api/v1/auth"] {
            check(&format!("{prefix}/signin"), Some(Place::Signin));
            check(&format!("{prefix}/tokens/a%2Db"), Some(Place::Token("a-b".to_owned())));
            check(&format!("{prefix}/token/x"), Some(Place::Token("x".to_owned())));
            check(&format!("{prefix}/token"), Some(Place::Tokens));
            check(prefix, Some(Place::Nothing));
            check(&format!("{prefix}/tokens/"), Some(Place::Nothing));
            check(&format!("{prefix}/tokens/a/b"), Some(Place::Nothing));
            check(&format!("{prefix}/signin/"), Some(Place::Nothing));
        }
        check("/authx/signin", None);
        check("/api/v1", None);
        check("/", None);
    }

    #[test]
    fn revocation_stays_without_auth() {
        assert_eq!(Place::find("/oauth2/revoke", None), Some(Place::Revoke));
        assert_eq!(Place::find("/oauth2/introspect", None), Some(Place::Introspect));
        assert_eq!(Place::find("/events/ssf", None), Some(Place::SecurityEvent));
        assert_eq!(Place::find("/events/backchannel-logout", None), Some(Place::BackchannelLogout));
        for path in ["/oauth2/token", "/events", "/events/x", "/auth/signin", "/.well-known/jwks.json"] {
            assert_eq!(Place::find(path, None), None, "{path}");
        }
    }
}
