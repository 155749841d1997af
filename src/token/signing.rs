//! Keys that we sign with, kept ready: reading an RSA key anew for each signature would cost half a millisecond.

use std::fmt;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPairComponents, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use aws_lc_rs::{hmac, signature::RsaEncoding};
use serde_json::Value;
use zeroize::Zeroizing;

use super::keys::mac_algorithm;
use super::{Algorithm, Claims, KeyError, PublicKey, decode_base64url, der, encode_base64url};

/// The label of a PKCS#8 private key (RFC 7468 §10).
const LABEL: &str = "PRIVATE KEY";

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Secret(Box<hmac::Key>, Zeroizing<Vec<u8>>),
}

/// A key that signs with one algorithm. Its id is the RFC 7638 thumbprint of the public key; a secret has a random
/// one, because a digest of a secret would let anyone test guesses of it.
pub struct SigningKey {
    id: Box<str>,
    algorithm: Algorithm,
    pair: Pair,
    /// None for a secret.
    public: Option<PublicKey>,
}

impl SigningKey {
    /// A new key: a secret as long as the digest (RFC 7518 §3.2), RSA of 2048 bits (some 100 ms), a point, a seed.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generation;
        let pair = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => {
                Pair::Ecdsa(EcdsaKeyPair::generate(ecdsa(algorithm)?).map_err(failed)?)
            }
            Algorithm::EdDSA => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
            _ => match mac_algorithm(algorithm) {
                Some(mac) => {
                    let mut secret = Zeroizing::new(vec![0; mac.digest_algorithm().output_len()]);
                    getrandom::fill(&mut secret).map_err(|_| KeyError::Generation)?;
                    return Self::from_secret(algorithm, &secret, random_id()?);
                }
                None => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?, rsa(algorithm)?),
            },
        };
        Self::of_pair(algorithm, pair)
    }

    /// A key pair from PKCS#8 in PEM, as [`export`](Self::export) and `openssl genpkey` write it.
    ///
    /// # Errors
    /// When it is no such key, is weak, or is not of the algorithm's type; for a symmetric algorithm.
    pub fn from_pkcs8_pem(algorithm: Algorithm, pem: &str) -> Result<Self, KeyError> {
        let mut blocks = der::pem_blocks(pem).ok_or(KeyError::NotPkcs8)?;
        let block = match (blocks.pop(), blocks.is_empty()) {
            (Some(block), true) if block.label == LABEL => Zeroizing::new(block.der),
            (Some(_), false) => return Err(KeyError::Several),
            _ => return Err(KeyError::NotPkcs8),
        };
        let malformed = |_| KeyError::Malformed;
        let pair = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => {
                Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(ecdsa(algorithm)?, &block).map_err(malformed)?)
            }
            Algorithm::EdDSA => Pair::Ed25519(Ed25519KeyPair::from_pkcs8(&block).map_err(malformed)?),
            _ => Pair::Rsa(RsaKeyPair::from_pkcs8(&block).map_err(malformed)?, rsa(algorithm)?),
        };
        Self::of_pair(algorithm, pair)
    }

    /// A private key from PEM as any tool writes it: PKCS#8, or what came before it for RSA and EC (`RSA PRIVATE KEY`,
    /// `EC PRIVATE KEY`). Without an `algorithm`, the `preferred` one if the key fits it, else the first that it fits.
    ///
    /// # Errors
    /// When it is none, is encrypted, is weak, or does not fit the algorithm.
    pub fn from_pem(pem: &str, algorithm: Option<Algorithm>, preferred: Algorithm) -> Result<Self, KeyError> {
        let mut blocks = der::pem_blocks(pem).ok_or(KeyError::NotPkcs8)?;
        // `openssl ecparam -genkey` writes the curve in front of the key.
        blocks.retain(|block| block.label != "EC PARAMETERS");
        let block = match (blocks.pop(), blocks.is_empty()) {
            (Some(block), true) => block,
            (Some(_), false) => return Err(KeyError::Several),
            _ => return Err(KeyError::NotPkcs8),
        };
        let bytes = Zeroizing::new(block.der);
        if ![LABEL, "RSA PRIVATE KEY", "EC PRIVATE KEY"].contains(&&*block.label) {
            return Err(KeyError::NotPkcs8);
        }
        let read = |algorithm: Algorithm| -> Option<Pair> {
            Some(match algorithm {
                Algorithm::ES256 | Algorithm::ES384 => {
                    Pair::Ecdsa(EcdsaKeyPair::from_private_key_der(ecdsa(algorithm).ok()?, &bytes).ok()?)
                }
                Algorithm::EdDSA => Pair::Ed25519(Ed25519KeyPair::from_pkcs8(&bytes).ok()?),
                _ => {
                    let pair =
                        RsaKeyPair::from_pkcs8(&bytes).or_else(|_| RsaKeyPair::from_der(&bytes)).ok()?;
                    Pair::Rsa(pair, rsa(algorithm).ok()?)
                }
            })
        };
        Self::first_fitting(algorithm, preferred, read)
    }

    /// A private JWK (RFC 7518 §6.2.2, §6.3.2, §6.4, RFC 8037 §2). A secret keeps its `kid`, or gets a random one.
    ///
    /// # Errors
    /// When it is none, is weak, inconsistent, or does not fit the algorithm.
    pub fn from_jwk(
        jwk: &Claims,
        algorithm: Option<Algorithm>,
        preferred: Algorithm,
    ) -> Result<Self, KeyError> {
        let bytes = |name: &'static str| {
            let text = jwk.get(name).and_then(Value::as_str).ok_or(KeyError::Member(name))?;
            decode_base64url(text).map(Zeroizing::new).map_err(|_| KeyError::Member(name))
        };
        if jwk.get("kty").and_then(Value::as_str) == Some("oct") {
            let secret = bytes("k")?;
            let id = match jwk.get("kid").and_then(Value::as_str) {
                Some(id) => id.into(),
                None => random_id()?,
            };
            let symmetric = |algorithm: &Algorithm| mac_algorithm(*algorithm).is_some();
            let algorithm = algorithm.unwrap_or(preferred);
            if !symmetric(&algorithm) {
                return Err(KeyError::NoAlgorithm { kind: "secret".to_owned(), algorithms: vec![algorithm] });
            }
            return Self::from_secret(algorithm, &secret, id);
        }
        let public = PublicKey::from_jwk(jwk)?;
        let d = bytes("d")?;
        let is_rsa = public.fits(Algorithm::RS256);
        let crt = match is_rsa {
            true => Some([bytes("p")?, bytes("q")?, bytes("dp")?, bytes("dq")?, bytes("qi")?]),
            false => None,
        };
        let point = |x: &[u8], y: &[u8]| [&[4][..], x, y].concat();
        let (x, y) = match is_rsa {
            true => (bytes("n")?, bytes("e")?),
            false => (bytes("x")?, bytes("y").unwrap_or_default()),
        };
        let read = |algorithm: Algorithm| -> Option<Pair> {
            Some(match algorithm {
                Algorithm::ES256 | Algorithm::ES384 => Pair::Ecdsa(
                    EcdsaKeyPair::from_private_key_and_public_key(ecdsa(algorithm).ok()?, &d, &point(&x, &y))
                        .ok()?,
                ),
                Algorithm::EdDSA => Pair::Ed25519(Ed25519KeyPair::from_seed_and_public_key(&d, &x).ok()?),
                _ => {
                    let [p, q, dp, dq, qi] = crt.as_ref()?;
                    let components = KeyPairComponents {
                        public_key: PublicKeyComponents { n: &x[..], e: &y[..] },
                        d: &d[..],
                        p: &p[..],
                        q: &q[..],
                        dP: &dp[..],
                        dQ: &dq[..],
                        qInv: &qi[..],
                    };
                    Pair::Rsa(RsaKeyPair::from_components(&components).ok()?, rsa(algorithm).ok()?)
                }
            })
        };
        Self::first_fitting(algorithm, preferred, read)
    }

    /// The key under the algorithm that was asked for, else under the first that takes it.
    fn first_fitting(
        algorithm: Option<Algorithm>,
        preferred: Algorithm,
        read: impl Fn(Algorithm) -> Option<Pair>,
    ) -> Result<Self, KeyError> {
        let any = [preferred, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256];
        let tried = match &algorithm {
            Some(algorithm) => std::slice::from_ref(algorithm),
            None => &any[..],
        };
        let asymmetric = tried.iter().filter(|algorithm| mac_algorithm(**algorithm).is_none());
        for algorithm in asymmetric {
            if let Some(pair) = read(*algorithm) {
                return Self::of_pair(*algorithm, pair);
            }
        }
        let kind = "private key that is malformed or of another kind".to_owned();
        Err(KeyError::NoAlgorithm { kind, algorithms: tried.to_vec() })
    }

    /// A secret with the id it is to have.
    ///
    /// # Errors
    /// When it is shorter than the algorithm's digest (RFC 7518 §3.2); for an asymmetric algorithm.
    pub fn from_secret(
        algorithm: Algorithm,
        secret: &[u8],
        id: impl Into<Box<str>>,
    ) -> Result<Self, KeyError> {
        let mac = mac_algorithm(algorithm).ok_or(KeyError::Unsupported)?;
        let needed = mac.digest_algorithm().output_len();
        if secret.len() < needed {
            return Err(KeyError::ShortSecret { bits: secret.len() * 8, algorithm, needed: needed * 8 });
        }
        let pair = Pair::Secret(Box::new(hmac::Key::new(mac, secret)), Zeroizing::new(secret.to_vec()));
        Ok(Self { id: id.into(), algorithm, pair, public: None })
    }

    fn of_pair(algorithm: Algorithm, pair: Pair) -> Result<Self, KeyError> {
        let public = match &pair {
            Pair::Ecdsa(pair) if algorithm == Algorithm::ES256 => {
                PublicKey::p256(pair.public_key().as_ref())?
            }
            Pair::Ecdsa(pair) => PublicKey::p384(pair.public_key().as_ref())?,
            Pair::Ed25519(pair) => PublicKey::ed25519(pair.public_key().as_ref())?,
            Pair::Rsa(pair, _) => PublicKey::from_pkcs1(pair.public_key().as_ref())?,
            Pair::Secret(..) => return Err(KeyError::Unsupported),
        };
        Ok(Self { id: public.thumbprint().into(), algorithm, pair, public: Some(public) })
    }

    /// Its `kid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The one algorithm it signs with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What others verify with; `None` for a secret, which is published nowhere.
    pub const fn public_key(&self) -> Option<&PublicKey> {
        self.public.as_ref()
    }

    pub(super) fn secret(&self) -> Option<&[u8]> {
        match &self.pair {
            Pair::Secret(_, secret) => Some(secret),
            _ => None,
        }
    }

    /// The private key for keeping: PKCS#8 in PEM, or a secret in base64url. Read back by
    /// [`import`](Self::import).
    ///
    /// # Errors
    /// When the library cannot write the key.
    pub fn export(&self) -> Result<Zeroizing<String>, KeyError> {
        let failed = |_| KeyError::Malformed;
        Ok(match &self.pair {
            Pair::Ecdsa(pair) => der::pem(LABEL, pair.to_pkcs8v1().map_err(failed)?.as_ref()),
            // Version 1: OpenSSL reads no other.
            Pair::Ed25519(pair) => der::pem(LABEL, pair.to_pkcs8v1().map_err(failed)?.as_ref()),
            Pair::Rsa(pair, _) => der::pem(LABEL, pair.as_der().map_err(failed)?.as_ref()),
            Pair::Secret(_, secret) => Zeroizing::new(encode_base64url(secret)),
        })
    }

    /// What [`export`](Self::export) wrote; `id` is used for a secret alone, a key pair has its thumbprint.
    ///
    /// # Errors
    /// When it is no key of that algorithm.
    pub fn import(algorithm: Algorithm, text: &str, id: &str) -> Result<Self, KeyError> {
        if mac_algorithm(algorithm).is_none() {
            return Self::from_pkcs8_pem(algorithm, text);
        }
        let secret = Zeroizing::new(decode_base64url(text).map_err(|_| KeyError::Malformed)?);
        Self::from_secret(algorithm, &secret, id)
    }

    /// The signature over `message` in the form of JWS: `r || s` of fixed length for `ES*` (RFC 7518 §3.4). `None`
    /// when the library fails.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => {
                pair.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).ok().map(|()| signature)
            }
            Pair::Secret(key, _) => Some(hmac::sign(key, message).as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?} {})", self.algorithm, self.id)
    }
}

fn random_id() -> Result<Box<str>, KeyError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| KeyError::Generation)?;
    Ok(encode_base64url(bytes).into())
}

fn ecdsa(algorithm: Algorithm) -> Result<&'static EcdsaSigningAlgorithm, KeyError> {
    match algorithm {
        Algorithm::ES256 => Ok(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => Ok(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        _ => Err(KeyError::Unsupported),
    }
}

fn rsa(algorithm: Algorithm) -> Result<&'static dyn RsaEncoding, KeyError> {
    Ok(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_SHA512,
        _ => return Err(KeyError::Unsupported),
    })
}
