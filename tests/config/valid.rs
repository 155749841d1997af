//! What valid configurations resolve to: the defaults of the contract, and what each way of writing means.

use std::path::Path;
use std::time::Duration;

use portcullis::config::Settings;
use portcullis::endpoint::settings::{Credential, OnReuse};
use portcullis::gateway::settings::AccessLog;
use portcullis::issuer::settings::KeySource;
use portcullis::revocation::settings::{Fsync, OnLostState};
use portcullis::route::settings::{HostPattern, IdentityHeaders, PathPattern, Requirement};
use portcullis::server::settings::Listen;
use portcullis::store::settings::Settings as Store;
use portcullis::token::Algorithm;
use portcullis::upstream::settings::{Balance, Health, PassiveHealth};

const SECS: Duration = Duration::from_secs(1);

fn valid(text: &str) -> Settings {
    super::parse("conf/gateway.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A configuration with one upstream and one route that has `lines`.
fn route(lines: &str) -> portcullis::route::settings::Route {
    let text = format!(
        "[[upstreams]]\nname = \"u\"\ntargets = [\"http://a\"]\n[[routes]]\nname = \"r\"\nupstream = \"u\"\n{lines}\n"
    );
    valid(&text).routes.remove(0)
}

/// The only upstream of a configuration that has `lines`.
fn upstream(lines: &str) -> portcullis::upstream::settings::Settings {
    valid(&format!("[[upstreams]]\nname = \"u\"\n{lines}\n")).upstreams.remove(0)
}

#[test]
fn an_empty_file_has_the_defaults_of_the_contract() {
    let settings = valid("");
    assert_eq!(settings.path, Path::new("conf/gateway.toml"));
    let server = settings.server;
    assert_eq!(server.listen, [Listen::Tcp("127.0.0.1:8080".parse().unwrap())]);
    assert!(server.workers >= 1);
    assert_eq!(server.header_read_timeout, Some(10 * SECS));
    assert_eq!(server.body_read_timeout, Some(30 * SECS));
    assert_eq!(server.idle_timeout, Some(75 * SECS));
    assert_eq!(server.max_connections, Some(16384));
    assert_eq!(server.drain_timeout, 30 * SECS);
    let limits = settings.limits;
    assert_eq!((limits.header_bytes_max, limits.headers_max), (32 << 10, 100));
    assert_eq!((limits.uri_bytes_max, limits.token_bytes_max), (8 << 10, 8 << 10));
    assert!(!limits.underscore_headers);
    assert!(settings.forward.trusted_proxies.is_empty());
    assert_eq!(settings.forward.strip_headers.len(), 11);
    assert_eq!(settings.forward.request_id_header, "x-request-id");
    assert_eq!(&*settings.gateway.realm, "portcullis");
    assert_eq!(settings.gateway.invalid_token_status, 401);
    assert_eq!(settings.gateway.access_log, AccessLog::Json);
    assert_eq!(settings.admin.listen, "127.0.0.1:9901".parse().unwrap());
    assert_eq!(settings.admin.token_file, Path::new("conf/state/admin.token"));
    assert_eq!(settings.store, Store::Sqlite("conf/state/portcullis.db".into()));
    let revocation = settings.revocation;
    assert_eq!(revocation.state_dir, Path::new("conf/state"));
    assert_eq!((revocation.fsync, revocation.on_lost_state), (Fsync::Always, OnLostState::Cutoff));
    assert_eq!((revocation.snapshot_every, revocation.snapshot_log_bytes), (300 * SECS, 64 << 20));
    assert!(revocation.claims.is_empty() && revocation.cut_live_connections);
    assert_eq!(revocation.token_cache, 65536);
    assert!(settings.clients.is_empty() && settings.issuers.is_empty());
    assert!(settings.upstreams.is_empty() && settings.routes.is_empty());
}

#[test]
fn auth_has_the_defaults_of_the_contract() {
    let auth = valid("").auth.unwrap();
    assert_eq!(auth.prefixes, ["/auth"].map(Box::<str>::from));
    assert!(auth.hosts.is_empty() && auth.signup && auth.rotate_refresh);
    assert_eq!(
        (&*auth.own.issuer, auth.own.algorithm, auth.own.strict),
        ("portcullis", Algorithm::ES256, false)
    );
    assert!(auth.own.audience.is_empty());
    assert_eq!(auth.own.keys_dir, Path::new("conf/state/keys"));
    let (minute, day) = (60 * SECS, 86_400 * SECS);
    assert_eq!(
        (auth.own.access_ttl, auth.own.refresh_ttl, auth.own.fresh_ttl),
        (15 * minute, 30 * day, 15 * minute)
    );
    assert_eq!((auth.reuse_grace, auth.on_reuse), (10 * SECS, OnReuse::RevokeSession));
    assert!(auth.user_fields.is_empty() && auth.claims.is_empty());
    assert_eq!(auth.max_sessions_per_user, None);
    assert_eq!((auth.header_transport, auth.cookie_transport), (true, false));
    let password = auth.password;
    assert_eq!(
        (password.min_length, password.memory_kib, password.iterations, password.parallelism),
        (8, 19456, 2, 1)
    );
    assert!(password.require_digit && password.require_symbol && password.deny_common);
    assert!(password.max_concurrent_hashes >= 1);
    assert_eq!((auth.lockout.attempts, auth.lockout.window), (10, 15 * minute));
}

#[test]
fn routes_and_upstreams_have_the_defaults_of_the_contract() {
    let route = route("");
    assert_eq!(
        (&*route.name, &route.host, &route.path),
        ("r", &HostPattern::Any, &PathPattern::Prefix("/".into()))
    );
    assert!(route.methods.is_empty() && route.issuers.is_empty() && route.scopes.is_empty());
    assert_eq!((route.auth, route.shadow, route.upstream), (Requirement::Access, false, 0));
    assert!(route.require_claims.is_empty() && !route.strip_prefix && route.rewrite.is_none());
    assert_eq!((route.timeout, route.max_body), (None, Some(10 << 20)));
    assert!(!route.allow_encoded_slash && !route.allow_method_override && route.forward_authorization);
    assert!(route.rate_limit.is_none() && route.cors.is_none());
    assert_eq!(route.request_headers, Default::default());
    assert_eq!(route.identity_headers, IdentityHeaders::default());
    let upstream = upstream("targets = [\"http://a\"]");
    assert_eq!(upstream.balance, Balance::TwoChoices);
    assert_eq!((upstream.connect_timeout, upstream.retries), (2 * SECS, 1));
    assert_eq!(upstream.response_timeout, Some(30 * SECS));
    assert_eq!(upstream.stream_idle_timeout, Some(300 * SECS));
    assert_eq!((upstream.max_requests, upstream.keepalive_max_idle), (None, 256));
    assert_eq!((upstream.keepalive_idle, upstream.health), (60 * SECS, None));
    assert_eq!(upstream.passive_health, PassiveHealth { failures: 5, window: 10 * SECS, eject: 30 * SECS });
}

#[test]
fn a_bare_zero_lifts_a_limit() {
    let settings = valid(
        "[server]\nheader_read_timeout = 0\nbody_read_timeout = 0\nidle_timeout = 0\nmax_connections = 0\nmax_body = 0\n\
         [[upstreams]]\nname = \"u\"\ntargets = [\"http://a\"]\nresponse_timeout = 0\nstream_idle_timeout = 0\n\
         passive_health = { failures = 0 }\n\
         [[routes]]\nname = \"a\"\npath = \"/a\"\nupstream = \"u\"\n\
         [[routes]]\nname = \"b\"\npath = \"/b\"\nupstream = \"u\"\nmax_body = \"1KiB\"\n",
    );
    let server = settings.server;
    assert_eq!(
        (server.header_read_timeout, server.body_read_timeout, server.idle_timeout),
        (None, None, None)
    );
    assert_eq!(server.max_connections, None);
    assert_eq!(
        (settings.upstreams[0].response_timeout, settings.upstreams[0].stream_idle_timeout),
        (None, None)
    );
    assert_eq!(settings.upstreams[0].passive_health.failures, 0);
    assert_eq!((settings.routes[0].max_body, settings.routes[1].max_body), (None, Some(1024)));
}

#[test]
fn a_route_takes_the_body_limit_of_the_server_unless_it_has_its_own() {
    assert_eq!(route("max_body = 0").max_body, None);
    assert_eq!(route("max_body = \"\"").max_body, Some(10 << 20));
    assert_eq!(route("max_body = \"2MiB\"").max_body, Some(2 << 20));
    assert_eq!(route("timeout = \"\"").timeout, None);
    assert_eq!(route("timeout = \"1500ms\"").timeout, Some(Duration::from_millis(1500)));
}

#[test]
fn addresses_are_taken_as_numbers_or_localhost() {
    let settings = valid(
        "[server]\nlisten = [\"localhost:80\", \"[::1]:80\", \"0.0.0.0:${PORT}\", \"127.0.0.1:0\"]\n\
         trusted_proxies = [\"10.0.0.0/8\", \"192.0.2.7\", \"::1\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n",
    );
    let listen: Vec<_> = ["127.0.0.1:80", "[::1]:80", "0.0.0.0:8081", "127.0.0.1:0"]
        .map(|address| Listen::Tcp(address.parse().unwrap()))
        .into();
    assert_eq!(settings.server.listen, listen);
    let networks: Vec<_> = settings.forward.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
}

#[test]
fn variables_are_filled_in_once_and_two_dollars_are_one() {
    let settings = valid("[server]\nrealm = \"${NESTED} $$${EMPTY}\"\n");
    assert_eq!(&*settings.gateway.realm, "${PORT} and $$ $");
}

#[test]
fn targets_get_their_port_and_weight() {
    let upstream = upstream(
        "targets = [\"http://Backend\", { url = \"http://[::1]:81\", weight = 3 }, \"${UPSTREAM}\"]\n\
         balance = \"hash:header:X-Shard\"\nhealth = { path = \"/up?deep=1\", interval = \"2s\" }",
    );
    let targets: Vec<_> = upstream.targets.iter().map(|t| (t.authority.as_str(), t.weight)).collect();
    assert_eq!(targets, [("backend:80", 1), ("[::1]:81", 3), ("127.0.0.1:5000", 1)]);
    assert_eq!(&*upstream.targets[2].url, "http://127.0.0.1:5000");
    assert_eq!(upstream.balance, Balance::HashHeader("x-shard".parse().unwrap()));
    let health = Health {
        path: "/up?deep=1".into(),
        interval: 2 * SECS,
        timeout: SECS,
        unhealthy_after: 3,
        healthy_after: 2,
    };
    assert_eq!(upstream.health, Some(health));
}

#[test]
fn hosts_and_paths_are_patterns() {
    let check = |lines: &str, host: HostPattern, path: PathPattern| {
        let route = route(lines);
        assert_eq!((route.host, route.path), (host, path), "{lines}");
    };
    let root = || PathPattern::Prefix("/".into());
    check("host = \"API.example.com\"", HostPattern::Exact("api.example.com".into()), root());
    check("host = \"*.example.com\"", HostPattern::Suffix("example.com".into()), root());
    check("host = \"::1\"", HostPattern::Exact("[::1]".into()), root());
    check("path = \"/a/b\"", HostPattern::Any, PathPattern::Prefix("/a/b".into()));
    check("path = \"=/a/\"", HostPattern::Any, PathPattern::Exact("/a/".into()));
    check("path = \"/%C3%A9\"", HostPattern::Any, PathPattern::Prefix("/%C3%A9".into()));
    check(
        "path = \"/a%2Fb\"\nallow_encoded_slash = true",
        HostPattern::Any,
        PathPattern::Prefix("/a%2Fb".into()),
    );
}

#[test]
fn get_implies_head() {
    assert_eq!(route("methods = [\"GET\", \"POST\"]").methods, ["GET", "POST", "HEAD"]);
    assert_eq!(route("methods = [\"HEAD\", \"GET\"]").methods, ["HEAD", "GET"]);
    assert_eq!(route("methods = [\"REFRESH\"]").methods, ["REFRESH"]);
}

#[test]
fn policy_is_read_in_every_spelling() {
    let route = route(
        "auth = \"fresh\"\nmode = \"shadow\"\nissuers = [\"self\"]\nscopes = [\"read\", \"write\"]\n\
         require_claims = { role = [\"admin\", 7, true, 1.5], tenant = \"a\", level = 3 }\nrewrite = \"/v2\"\n\
         request_headers = { set = { X-Api = \"1\" }, remove = [\"Accept\"] }\n\
         identity_headers = { subject = \"X-User\", scope = \"\" }\nforward_authorization = false",
    );
    assert_eq!((route.auth, route.shadow), (Requirement::Fresh, true));
    assert_eq!(route.issuers, ["self"].map(std::sync::Arc::<str>::from));
    assert_eq!(route.scopes, ["read", "write"].map(Box::<str>::from));
    let claims: Vec<_> =
        route.require_claims.iter().map(|(name, values)| (&**name, values.join("|"))).collect();
    assert_eq!(
        claims,
        [("level", "3".to_owned()), ("role", "admin|7|true|1.5".to_owned()), ("tenant", "a".to_owned())]
    );
    assert_eq!(route.rewrite.as_deref(), Some("/v2"));
    assert_eq!(route.request_headers.set, [("x-api".parse().unwrap(), "1".parse().unwrap())]);
    assert_eq!(route.request_headers.remove, ["accept"]);
    assert_eq!(route.identity_headers.subject.unwrap(), "x-user");
    assert_eq!(route.identity_headers.scope, None);
    assert_eq!(route.identity_headers.session.unwrap(), "x-auth-session");
    assert!(!route.forward_authorization);
}

#[test]
fn routes_of_one_path_may_share_it_by_method_or_host() {
    let settings = valid(
        "[[upstreams]]\nname = \"u\"\ntargets = [\"http://a\"]\n\
         [[routes]]\nname = \"read\"\nmethods = [\"GET\"]\nupstream = \"u\"\nauth = \"public\"\n\
         [[routes]]\nname = \"write\"\nmethods = [\"POST\"]\nupstream = \"u\"\n\
         [[routes]]\nname = \"other\"\nhost = \"b.example.com\"\nupstream = \"u\"\n",
    );
    assert_eq!(settings.routes.len(), 3);
}

#[test]
fn auth_can_be_turned_off() {
    assert_eq!(valid("[auth]\nenabled = false\n").auth, None);
}

#[test]
fn auth_is_read_whole() {
    let auth = valid(
        "[auth]\nprefixes = [\"/auth\", \"/api/v1/auth\"]\nhosts = [\"A.example.com\"]\nsignup = false\nissuer = \"x\"\n\
         audience = \"api\"\nalgorithm = \"EdDSA\"\nregistry = \"strict\"\nuser_fields = [\"first-name\"]\n\
         max_sessions_per_user = 3\non_reuse = \"log\"\nreuse_grace = \"0s\"\n[auth.password]\nmin_length = 5\n\
         argon2 = { memory = \"32KiB\", parallelism = 4 }\nmax_concurrent_hashes = 3\n[auth.lockout]\nattempts = 4\n\
         [auth.claims]\ntenant = \"${EMPTY}acme\"\nlist = [1, true, { a = 0.5 }]\n",
    )
    .auth
    .unwrap();
    assert_eq!(auth.prefixes, ["/auth", "/api/v1/auth"].map(Box::<str>::from));
    assert_eq!(auth.hosts, ["a.example.com"].map(Box::<str>::from));
    assert_eq!((auth.own.audience, auth.own.algorithm), (vec!["api".into()], Algorithm::EdDSA));
    assert!(auth.own.strict && !auth.signup);
    assert_eq!((auth.max_sessions_per_user, auth.on_reuse), (Some(3), OnReuse::Log));
    assert_eq!(auth.reuse_grace, Duration::ZERO);
    let password = auth.password;
    assert_eq!((password.min_length, password.memory_kib, password.parallelism), (5, 32, 4));
    assert_eq!((password.max_concurrent_hashes, auth.lockout.attempts), (3, 4));
    let claims = serde_json::json!({"tenant": "acme", "list": [1, true, {"a": 0.5}]});
    assert_eq!(serde_json::Value::Object(auth.claims), claims);
}

#[test]
fn every_algorithm_of_the_contract_can_sign() {
    for name in "ES256 ES384 EdDSA RS256 RS384 RS512 PS256 PS384 PS512 HS256 HS384 HS512".split(' ') {
        let auth = valid(&format!("[auth]\nalgorithm = \"{name}\"\n")).auth.unwrap();
        assert_eq!(format!("{:?}", auth.own.algorithm), name);
    }
}

#[test]
fn the_default_of_signup_may_be_written_beside_a_delegate() {
    let settings = valid(
        "[auth]\nsignup = true\n[auth.delegate]\nurl = \"http://127.0.0.1:5000/login\"\nsubject = \"/user/id\"\n",
    );
    let auth = settings.auth.unwrap();
    assert!(auth.delegate.is_some() && !auth.signup, "the backend makes the accounts");
}

#[test]
fn issuers_load_their_keys() {
    let settings = super::parse(
        "gateway.toml",
        "[[issuers]]\nname = \"hs\"\nalgorithms = [\"HS256\"]\nsecret_file = \"files/secret-32\"\n\
         [[issuers]]\nname = \"short\"\nissuer = \"s\"\nalgorithms = [\"HS512\"]\nsecret_file = \"files/secret-crlf\"\n\
         allow_short_secret = true\n\
         [[issuers]]\nname = \"pem\"\nissuer = \"p\"\nalgorithms = [\"ES256\"]\npublic_key_file = \"files/public.pem\"\n\
         [[issuers]]\nname = \"set\"\nissuer = \"j\"\nalgorithms = [\"RS256\", \"ES256\"]\njwks_file = \"files/jwks.json\"\n\
         audience = [\"a\", \"b\"]\nleeway = \"30s\"\nmax_token_ttl = \"1h\"\nrequire = [\"exp\", \"jti\"]\n\
         typ = [\"at+jwt\"]\nclaims = { subject = \"uid\", client = [\"app\"] }\n\
         [[clients]]\nid = \"billing\"\nsecret_file = \"files/secret-32\"\nmay = [\"introspect\", \"revoke\"]\n\
         [[clients]]\nid = \"default\"\nsecret_file = \"files/secret-32\"\n\
         [[clients]]\nid = \"web\"\npublic_key_file = \"files/public.pem\"\nmay = [\"token\"]\nscopes = [\"read\"]\n",
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let [hs, short, pem, set] = settings.issuers.as_slice() else { panic!("four issuers") };
    let secret = |keys: &KeySource| match keys {
        KeySource::SecretFile { secret, .. } => secret.to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (hs.issuer.as_deref(), secret(&hs.keys)),
        (None, b"0123456789abcdef0123456789abcdef".to_vec())
    );
    assert_eq!(secret(&short.keys), b"ends in CR LF\n");
    assert!(matches!(&pem.keys, KeySource::PublicKeyFile { path, pem }
        if path == Path::new("files/public.pem") && pem.starts_with("-----BEGIN PUBLIC KEY-----\n")));
    assert!(matches!(&set.keys, KeySource::JwksFile { text, .. } if text.contains("\"keys\"")));
    assert_eq!(set.algorithms, [Algorithm::RS256, Algorithm::ES256]);
    assert_eq!((set.leeway, set.max_token_ttl), (30 * SECS, 3600 * SECS));
    assert_eq!((&*set.name, set.audience.len()), ("set", 2));
    assert_eq!((&set.require, &set.typ), (&vec!["jti".into()], &vec!["at+jwt".into()]));
    assert_eq!((&set.claims.subject, &set.claims.client), (&vec!["uid".into()], &vec!["app".into()]));
    assert_eq!(set.claims.session, ["sid"].map(Box::<str>::from));
    let [billing, default, web] = settings.clients.as_slice() else { panic!("three clients") };
    assert!(billing.introspect && billing.revoke && !billing.token);
    assert!(default.introspect && !default.revoke);
    assert!(web.token && !web.introspect && matches!(web.credential, Credential::Key(_)));
    assert_eq!(web.scopes, ["read"].map(Box::<str>::from));
    assert_eq!(format!("{settings:?}").matches("0123456789abcdef").count(), 0);
}

#[test]
fn revocation_is_read_whole() {
    let settings = valid(
        "[state]\ndir = \"/var/lib/portcullis\"\n[store]\nurl = \"sqlite:db/p.db\"\n[revocation]\nfsync = \"50ms\"\n\
         snapshot_every = \"1h\"\nsnapshot_log_bytes = \"1MiB\"\nclaims = [\"tenant\"]\non_lost_state = \"refuse\"\n\
         cut_live_connections = false\ntoken_cache = 0\n",
    );
    let revocation = settings.revocation;
    assert_eq!(revocation.state_dir, Path::new("/var/lib/portcullis"));
    assert_eq!(settings.store, Store::Sqlite("conf/db/p.db".into()));
    assert_eq!(revocation.fsync, Fsync::Every(Duration::from_millis(50)));
    assert_eq!((revocation.snapshot_every, revocation.snapshot_log_bytes), (3600 * SECS, 1 << 20));
    assert_eq!((revocation.claims, revocation.on_lost_state), (vec!["tenant".into()], OnLostState::Refuse));
    assert_eq!((revocation.cut_live_connections, revocation.token_cache), (false, 0));
}

#[test]
fn a_default_of_what_is_not_available_may_be_written_out() {
    valid(
        "[server]\nproxy_protocol = false\n[auth]\ntoken_transport = [\"header\"]\n[[upstreams]]\nname = \"u\"\n\
         targets = [\"http://a\"]\nhttp2 = false\ntls = { ca_file = \"\", server_name = \"\", cert_file = \"\", \
         key_file = \"\" }\n",
    );
}
