//! Proofs made by hand, and those of RFC 9449.

use serde_json::{Value, json};

use super::{NOW, signed};
use crate::clock::UnixTime;
use crate::token::{
    Algorithm, Binding, Claims, NotTaken, Possession, Proof, ProofError, ProofFor, Replays, Scheme,
    SigningKey, Thumbprint, VerifyError, check_proof, decode_base64url, encode_base64url,
};

const TOKEN: &str = "some.access.token";

fn wanted() -> ProofFor<'static> {
    ProofFor {
        method: "GET",
        scheme: "https",
        authority: "api.example.com",
        path: "/things/a%2Fb",
        token: Some(TOKEN),
        with_ath: true,
    }
}

fn ath(token: &str) -> String {
    encode_base64url(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()))
}

struct Maker {
    key: SigningKey,
    header: Value,
    claims: Value,
}

impl Maker {
    fn new(algorithm: Algorithm) -> Self {
        let key = SigningKey::generate(algorithm).unwrap();
        let mut jwk = key.public_key().unwrap().to_jwk("x", algorithm);
        for name in ["kid", "use", "alg"] {
            jwk.as_object_mut().unwrap().remove(name);
        }
        let header = json!({ "typ": "dpop+jwt", "alg": format!("{algorithm:?}"), "jwk": jwk });
        let claims = json!({
            "jti": "one", "htm": "GET", "htu": "https://api.example.com/things/a%2Fb", "iat": NOW.secs(), "ath": ath(TOKEN),
        });
        Self { key, header, claims }
    }

    fn text(&self) -> String {
        signed(&self.key, &self.header.to_string(), &self.claims.to_string())
    }

    fn check(&self) -> Result<Proof, ProofError> {
        check_proof(&self.text(), &wanted(), NOW)
    }

    fn with_claim(claim: &str, value: Value) -> Result<Proof, ProofError> {
        let mut maker = Self::new(Algorithm::ES256);
        maker.claims[claim] = value;
        maker.check()
    }

    fn without(claim: &str) -> Result<Proof, ProofError> {
        let mut maker = Self::new(Algorithm::ES256);
        maker.claims.as_object_mut().unwrap().remove(claim);
        maker.check()
    }

    fn with_header(name: &str, value: Value) -> Result<Proof, ProofError> {
        let mut maker = Self::new(Algorithm::ES256);
        maker.header[name] = value;
        maker.check()
    }
}

/// RFC 9449 §4.1 and §7.1, as printed there.
#[test]
fn the_examples_of_the_rfc_verify() {
    let header = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19";
    let at_token = format!(
        "{header}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
    );
    let at_resource = format!(
        "{header}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    );
    let wanted = ProofFor {
        method: "POST",
        scheme: "https",
        authority: "server.example.com",
        path: "/token",
        token: None,
        with_ath: false,
    };
    let proof = check_proof(&at_token, &wanted, UnixTime::from_secs(1_562_262_616)).unwrap();
    assert_eq!(proof.key().to_string(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    let wanted = ProofFor {
        method: "GET",
        scheme: "https",
        authority: "resource.example.org",
        path: "/protectedresource",
        token: Some("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"),
        with_ath: true,
    };
    check_proof(&at_resource, &wanted, UnixTime::from_secs(1_562_262_618)).unwrap();
}

#[test]
fn every_asymmetric_algorithm_may_sign_one() {
    for algorithm in
        [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS512]
    {
        let maker = Maker::new(algorithm);
        let proof = maker.check().unwrap();
        assert_eq!(proof.key().to_string(), maker.key.public_key().unwrap().thumbprint());
    }
}

#[test]
fn each_wrong_claim_is_told() {
    let with = |name, value| Maker::with_claim(name, value).unwrap_err();
    assert_eq!(with("htm", json!("POST")), ProofError::Method);
    assert_eq!(with("htm", json!("get")), ProofError::Method);
    assert_eq!(with("iat", json!(NOW.secs() - 61)), ProofError::Time);
    assert_eq!(with("iat", json!(NOW.secs() + 11)), ProofError::Time);
    assert_eq!(with("iat", json!("now")), ProofError::Claim("iat"));
    assert_eq!(with("ath", json!(ath("another"))), ProofError::Token);
    assert_eq!(with("ath", json!(1)), ProofError::Token);
    assert_eq!(with("jti", json!("")), ProofError::Claim("jti"));
    assert_eq!(with("jti", json!("x".repeat(256))), ProofError::Claim("jti"));
    assert_eq!(with("nonce", json!(1)), ProofError::Claim("nonce"));
    for name in ["jti", "htm", "htu", "iat", "ath"] {
        assert_eq!(Maker::without(name).unwrap_err(), ProofError::Claim(name), "{name}");
    }
    assert!(Maker::with_claim("iat", json!(NOW.secs() - 60)).is_ok());
    assert!(Maker::with_claim("iat", json!(NOW.secs() + 10)).is_ok());
}

#[test]
fn the_url_is_compared_in_its_normal_form() {
    for good in [
        "https://api.example.com/things/a%2Fb",
        "HTTPS://API.example.COM:443/things/a%2fb",
        "https://api.example.com/%74hings/a%2Fb?query#fragment",
    ] {
        assert!(Maker::with_claim("htu", json!(good)).is_ok(), "{good}");
    }
    for bad in [
        "http://api.example.com/things/a%2Fb",
        "https://api.example.com:8443/things/a%2Fb",
        "https://api.example.com.evil/things/a%2Fb",
        "https://evil@api.example.com/things/a%2Fb",
        "https://api.example.com/things/a/b",
        "https://api.example.com/things/a%2Fb/",
        "https://api.example.com/things/a%2",
        "//api.example.com/things/a%2Fb",
        "/things/a%2Fb",
        "",
    ] {
        assert_eq!(Maker::with_claim("htu", json!(bad)).unwrap_err(), ProofError::Url, "{bad}");
    }
}

#[test]
fn keys_and_signatures_are_not_taken_on_trust() {
    let with = |name, value| Maker::with_header(name, value).unwrap_err();
    assert_eq!(with("typ", json!("JWT")), ProofError::Typ);
    assert_eq!(with("alg", json!("none")), ProofError::Algorithm);
    assert_eq!(with("alg", json!("HS256")), ProofError::Algorithm);
    assert_eq!(with("alg", json!("ES384")), ProofError::Algorithm);
    assert_eq!(with("crit", json!(["x"])), ProofError::Algorithm);
    assert_eq!(with("jwk", json!({ "kty": "oct", "k": "AAAA" })), ProofError::PrivateKey);
    assert_eq!(with("jwk", json!({ "kty": "EC" })), ProofError::Key);
    assert_eq!(with("jwk", json!("key")), ProofError::Key);
    let mut private = Maker::new(Algorithm::ES256);
    private.header["jwk"]["d"] = json!("AAAA");
    assert_eq!(private.check().unwrap_err(), ProofError::PrivateKey);

    let (one, other) = (Maker::new(Algorithm::ES256), Maker::new(Algorithm::ES256));
    let forged = signed(&one.key, &other.header.to_string(), &one.claims.to_string());
    assert_eq!(check_proof(&forged, &wanted(), NOW).unwrap_err(), ProofError::Signature);
    for text in ["", "a.b", "a.b.c.d.e", "e30.e30.", &"a".repeat(7000)] {
        assert!(check_proof(text, &wanted(), NOW).is_err(), "{text}");
    }
}

#[test]
fn an_access_token_is_asked_for_by_digest_only_where_there_is_one() {
    let mut maker = Maker::new(Algorithm::ES256);
    let here = ProofFor { token: None, with_ath: false, ..wanted() };
    assert_eq!(check_proof(&maker.text(), &here, NOW).unwrap_err(), ProofError::Token);
    maker.claims.as_object_mut().unwrap().remove("ath");
    assert!(check_proof(&maker.text(), &here, NOW).is_ok());
}

#[test]
fn a_proof_is_taken_once_for_as_long_as_it_is_good() {
    let replays = Replays::new(1 << 10);
    let maker = Maker::new(Algorithm::ES256);
    let proof = maker.check().unwrap();
    assert_eq!(replays.take(&proof, NOW), Ok(()));
    for later in [0, 1, 60, 69, 70] {
        let later = UnixTime::from_secs(NOW.secs() + later);
        assert_eq!(replays.take(&proof, later), Err(NotTaken::Replayed), "{later:?}");
    }
    // A clock that jumps back forgets nothing either.
    assert_eq!(replays.take(&proof, UnixTime::from_secs(NOW.secs() - 1000)), Err(NotTaken::Replayed));
    // The same jti by another key is another proof.
    assert_eq!(replays.take(&Maker::new(Algorithm::ES256).check().unwrap(), NOW), Ok(()));
}

#[test]
fn a_proof_that_one_process_took_is_used_to_the_next() {
    let made = || Maker::new(Algorithm::ES256).check().unwrap();
    let (old, used, fresh) = (made(), made(), made());
    let later = UnixTime::from_secs(NOW.secs() + 71);
    let before = Replays::new(1 << 10).with_nonces(None);
    before.take(&old, NOW).unwrap();
    before.take(&used, later).unwrap();
    let after = Replays::new(1 << 10);
    after.take_over(&before.handed_over());
    for proof in [&old, &used] {
        assert_eq!(after.take(proof, later), Err(NotTaken::Replayed));
    }
    assert_eq!(after.take(&fresh, later), Ok(()));
    // And nonces that were given out are good.
    let before = before.with_nonces(Some(b"one secret"));
    let Err(NotTaken::NonceWanted(nonce)) = before.take(&fresh, NOW) else { panic!("a nonce is wanted") };
    let after = Replays::new(1 << 10).with_nonces(Some(b"another secret"));
    after.take_over(&before.handed_over());
    let mut maker = Maker::new(Algorithm::ES256);
    maker.claims["nonce"] = (&*nonce).into();
    assert_eq!(after.take(&maker.check().unwrap(), NOW), Ok(()));
    // Nothing that could come in its place breaks anything.
    for bytes in [&[][..], &[255; 24], &[0; 25], &[1; 1000]] {
        Replays::new(64).take_over(bytes);
    }
}

#[test]
fn what_cannot_be_remembered_is_not_taken_and_room_comes_back() {
    let replays = Replays::new(32); // one in each shard
    let mut maker = Maker::new(Algorithm::ES256);
    let mut full = None;
    for number in 0..1000 {
        maker.claims["jti"] = number.to_string().into();
        let proof = maker.check().unwrap();
        if replays.take(&proof, NOW) == Err(NotTaken::Full) {
            full = Some(proof);
            break;
        }
    }
    let proof = full.expect("there is room for 32");
    assert_eq!(replays.take(&proof, UnixTime::from_secs(NOW.secs() + 71)), Ok(()));
}

#[test]
fn a_bound_token_asks_for_its_own_key_and_certificate() {
    let proof = Maker::new(Algorithm::ES256).check().unwrap();
    let other = Thumbprint([7; 32]);
    let key = |key| Some(Binding { key: Some(key), certificate: None });
    let certificate = |certificate| Some(Binding { key: None, certificate: Some(certificate) });
    let bearer = Possession::default();
    let dpop = Possession { scheme: Scheme::Dpop, proof: Some(proof.clone()), certificate: None };
    let bare = Possession { scheme: Scheme::Dpop, ..Possession::default() };
    let mtls = Possession { certificate: Some(other), ..Possession::default() };
    let check = |possession: &Possession, binding: Option<Binding>| possession.suits(binding.as_ref());

    assert_eq!(check(&bearer, None), Ok(()));
    assert_eq!(check(&mtls, None), Ok(()));
    assert_eq!(check(&dpop, None), Err(VerifyError::NotBound));
    assert_eq!(check(&dpop, key(proof.key())), Ok(()));
    assert_eq!(check(&dpop, key(other)), Err(VerifyError::OtherKey));
    assert_eq!(check(&bare, key(proof.key())), Err(VerifyError::OtherKey));
    assert_eq!(check(&bearer, key(proof.key())), Err(VerifyError::Bound));
    assert_eq!(check(&mtls, certificate(other)), Ok(()));
    assert_eq!(check(&mtls, certificate(Thumbprint([8; 32]))), Err(VerifyError::OtherCertificate));
    assert_eq!(check(&bearer, certificate(other)), Err(VerifyError::OtherCertificate));
    let both = Some(Binding { key: Some(proof.key()), certificate: Some(other) });
    assert_eq!(check(&dpop, both), Err(VerifyError::OtherCertificate));
    assert_eq!(check(&Possession { certificate: Some(other), ..dpop }, both), Ok(()));
}

#[test]
fn a_confirmation_that_we_cannot_check_is_refused() {
    let of = |cnf: Value| {
        let claims: Claims = json!({ "cnf": cnf }).as_object().unwrap().clone();
        Binding::of(&claims)
    };
    for cnf in [
        json!({}),
        json!(null),
        json!([]),
        json!("x"),
        json!({ "jwk": {} }),
        json!({ "jkt": "x", "kid": "y" }),
    ] {
        assert_eq!(of(cnf.clone()), Err(VerifyError::Bound), "{cnf}");
    }
    let good = encode_base64url([1; 32]);
    for cnf in [json!({ "jkt": "x" }), json!({ "jkt": 1 }), json!({ "x5t#S256": encode_base64url([1; 20]) })]
    {
        assert_eq!(of(cnf.clone()), Err(VerifyError::ClaimType("cnf".into())), "{cnf}");
    }
    let binding = of(json!({ "jkt": good, "x5t#S256": good })).unwrap().unwrap();
    assert_eq!(binding.to_json(), json!({ "jkt": good, "x5t#S256": good }));
    assert_eq!(decode_base64url(&good).unwrap(), [1; 32]);
}
