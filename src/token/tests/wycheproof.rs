//! Project Wycheproof: thousands of signatures made to get past verifiers with the usual mistakes, against our keys as
//! tokens use them. Messages are arbitrary bytes there, so this is the step behind the form of a token:
//! `KeySet::check`, with each key read from the file format that an operator would give.

use ::wycheproof::TestResult;
use ::wycheproof::{ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

use super::*;

/// Some numbers of a run, so that a set that was not read is seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    accepted: usize,
    refused: usize,
}

impl Tally {
    /// Judges one signature; what is only "acceptable" to Wycheproof may go either way.
    fn check(&mut self, keys: &KeySet, algorithm: Algorithm, case: &Case<'_>) {
        let accepted = keys.check(None, algorithm, NOW, case.message, case.signature).is_ok();
        match case.expected {
            TestResult::Valid => assert!(accepted, "{algorithm:?} {}: {} is good", case.id, case.comment),
            TestResult::Invalid => assert!(!accepted, "{algorithm:?} {}: {} is bad", case.id, case.comment),
            TestResult::Acceptable => {}
        }
        *(if accepted { &mut self.accepted } else { &mut self.refused }) += 1;
    }

    fn assert_plenty(&self) {
        assert!(self.accepted >= 20 && self.refused > 50, "{self:?}");
    }
}

struct Case<'a> {
    id: usize,
    comment: &'a str,
    message: &'a [u8],
    signature: &'a [u8],
    expected: TestResult,
}

/// The cases of one set whose groups have a key in PEM.
macro_rules! check_set {
    ($module:ident :: $name:ident, $algorithm:expr, $tally:expr) => {
        let set = $module::TestSet::load($module::TestName::$name).unwrap();
        for group in &set.test_groups {
            let keys = KeySet::from_public_key(&group.pem, &[$algorithm]).unwrap();
            for test in &group.tests {
                let case = Case {
                    id: test.tc_id,
                    comment: &test.comment,
                    message: &test.msg,
                    signature: &test.sig,
                    expected: test.result,
                };
                $tally.check(&keys, $algorithm, &case);
            }
        }
    };
}

#[test]
fn ecdsa_in_the_fixed_form_of_jws() {
    let mut tally = Tally::default();
    check_set!(ecdsa::EcdsaSecp256r1Sha256P1363, Algorithm::ES256, tally);
    check_set!(ecdsa::EcdsaSecp384r1Sha384P1363, Algorithm::ES384, tally);
    tally.assert_plenty();
}

#[test]
fn ecdsa_in_asn1_is_never_taken() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).unwrap();
    let mut taken = 0;
    for group in &set.test_groups {
        let keys = KeySet::from_public_key(&group.pem, &[Algorithm::ES256]).unwrap();
        let check = |sig: &[u8], msg: &[u8]| keys.check(None, Algorithm::ES256, NOW, msg, sig).is_ok();
        taken += group.tests.iter().filter(|test| check(&test.sig, &test.msg)).count();
    }
    assert_eq!(taken, 0);
}

#[test]
fn ed25519() {
    let mut tally = Tally::default();
    check_set!(eddsa::Ed25519, Algorithm::EdDSA, tally);
    tally.assert_plenty();
}

#[test]
fn rsa_pkcs1() {
    let mut tally = Tally::default();
    check_set!(rsa_pkcs1_verify::Rsa2048Sha256, Algorithm::RS256, tally);
    check_set!(rsa_pkcs1_verify::Rsa3072Sha384, Algorithm::RS384, tally);
    check_set!(rsa_pkcs1_verify::Rsa4096Sha512, Algorithm::RS512, tally);
    check_set!(rsa_pkcs1_verify::Rsa8192Sha256, Algorithm::RS256, tally);
    tally.assert_plenty();
}

#[test]
fn rsa_pss_with_a_salt_as_long_as_the_digest() {
    let mut tally = Tally::default();
    check_set!(rsa_pss_verify::RsaPss2048Sha256Mgf1SaltLen32, Algorithm::PS256, tally);
    check_set!(rsa_pss_verify::RsaPss2048Sha384Mgf1SaltLen48, Algorithm::PS384, tally);
    check_set!(rsa_pss_verify::RsaPss4096Sha512Mgf1SaltLen64, Algorithm::PS512, tally);
    tally.assert_plenty();
}

#[test]
fn rsa_pss_with_another_salt_is_never_taken() {
    // RFC 7518 §3.5: the salt has the size of the hash.
    for (name, algorithm) in [
        (rsa_pss_verify::TestName::RsaPss2048Sha256Mgf1SaltLen0, Algorithm::PS256),
        (rsa_pss_verify::TestName::RsaPss4096Sha512Mgf1SaltLen32, Algorithm::PS512),
    ] {
        let set = rsa_pss_verify::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let keys = KeySet::from_public_key(&group.pem, &[algorithm]).unwrap();
            for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
                assert!(keys.check(None, algorithm, NOW, &test.msg, &test.sig).is_err(), "{}", test.tc_id);
            }
        }
    }
}

#[test]
fn hmac_in_full_length() {
    let mut tally = Tally::default();
    for (name, algorithm, bits) in [
        (mac::TestName::HmacSha256, Algorithm::HS256, 256),
        (mac::TestName::HmacSha384, Algorithm::HS384, 384),
        (mac::TestName::HmacSha512, Algorithm::HS512, 512),
    ] {
        let set = mac::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            for test in group.tests.iter().filter(|test| !test.key.is_empty()) {
                let keys = KeySet::from_secret(&test.key, &[algorithm]).unwrap();
                // Wycheproof takes a truncated tag where its group says so; a JWS never has one (RFC 7518 §3.2).
                let expected = if group.tag_size == bits { test.result } else { TestResult::Invalid };
                let case = Case {
                    id: test.tc_id,
                    comment: &test.comment,
                    message: &test.msg,
                    signature: &test.tag,
                    expected,
                };
                tally.check(&keys, algorithm, &case);
            }
        }
    }
    tally.assert_plenty();
}
