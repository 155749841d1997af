//! A token that is not kept: the whole of its verification, beside the signature check of aws-lc-rs alone.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
};
use portcullis::issuer::{Issuers, Setup};
use portcullis::token::Algorithm;

use super::engine::{now, own, token};
use super::row;

/// Rounds of some checks of one kind and then as many of the other, so that both meet the same machine.
const ROUNDS: usize = 400;
const CHECKS: u32 = 8;

pub(crate) fn measure(dir: &Path) {
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256] {
        let own = own(&dir.join(format!("{algorithm:?}")), algorithm);
        let setup = Setup {
            own: Some(&own),
            external: &[],
            revocable: &["tenant".into()],
            token_cache: 0,
            token_bytes_max: 8192,
            nonce_secret: None,
            shared: None,
        };
        let at = now();
        let issuers = Issuers::load(&setup, at).unwrap().0;
        let text = token(&issuers, 7);
        let signed = text.rsplit_once('.').unwrap().0.as_bytes();
        let (key, signature) = alone(algorithm, signed);
        let (mut whole, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            whole.push(timed(|| drop(issuers.verify(black_box(&text), at).unwrap())));
            bare.push(timed(|| key.verify_sig(black_box(signed), &signature).unwrap()));
        }
        whole.sort_unstable();
        bare.sort_unstable();
        // What other programs take only adds, so the least is the truest.
        let ratio = |at: usize| whole[at].as_secs_f64() / bare[at].as_secs_f64();
        let micros = |time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6);
        row(
            &format!("verification of a token that is not kept, {algorithm:?}"),
            0,
            "≤ 1.3 × aws-lc-rs alone",
            &format!("{:.2} × (medians {:.2} ×)", ratio(0), ratio(ROUNDS / 2)),
            &format!("{} for {}; {} B of text", micros(whole[0]), micros(bare[0]), text.len()),
        );
    }
}

/// The mean of a few.
fn timed(check: impl Fn()) -> Duration {
    let start = Instant::now();
    (0..CHECKS).for_each(|_| check());
    start.elapsed() / CHECKS
}

/// A key that is parsed already, and its signature of this.
fn alone(algorithm: Algorithm, message: &[u8]) -> (ParsedPublicKey, Vec<u8>) {
    let random = SystemRandom::new();
    match algorithm {
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            let signature = pair.sign(&random, message).unwrap().as_ref().to_vec();
            (ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref()).unwrap(), signature)
        }
        Algorithm::EdDSA => {
            let pair = Ed25519KeyPair::generate().unwrap();
            let signature = pair.sign(message).as_ref().to_vec();
            (ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()).unwrap(), signature)
        }
        _ => {
            let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
            (
                ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()).unwrap(),
                signature,
            )
        }
    }
}
