//! Public keys in one shape, wherever they were read from: checked when they are made, so that a weak or broken one
//! is an operator's error at load and not a forged token later.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents, VerificationAlgorithm};
use serde_json::{Value, json};

use super::der::{self, Der};
use super::{Algorithm, Claims, KeyError, Thumbprint, decode_base64url, encode_base64url};

/// RFC 7518 §3.3 and §3.5 ask for 2048 bits or more.
const RSA_BITS_MIN: usize = 2048;
/// Beyond, one verification would cost milliseconds.
const RSA_BITS_MAX: usize = 8192;
/// AWS-LC takes no larger public exponent.
const RSA_EXPONENT_BITS_MAX: usize = 33;

/// id-ecPublicKey, 1.2.840.10045.2.1
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// rsaEncryption, 1.2.840.113549.1.1.1
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// id-Ed25519, 1.3.101.112
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The y coordinates (sign bit off) of the points of small order on edwards25519, both spellings. With such a key
/// anyone can make signatures that verify for some messages.
const ED25519_SMALL_ORDER: [[u8; 32]; 7] = {
    const fn filled(first: u8, middle: u8, last: u8) -> [u8; 32] {
        let mut bytes = [middle; 32];
        bytes[0] = first;
        bytes[31] = last;
        bytes
    }
    [
        filled(0x00, 0x00, 0x00),
        filled(0x01, 0x00, 0x00),
        filled(0xec, 0xff, 0x7f),
        filled(0xed, 0xff, 0x7f),
        filled(0xee, 0xff, 0x7f),
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ]
};

/// A curve of the `ES*` algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }

    /// Of one coordinate.
    const fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    /// prime256v1, 1.2.840.10045.3.1.7; secp384r1, 1.3.132.0.34
    fn of_oid(oid: &[u8]) -> Option<Self> {
        match oid {
            [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => Some(Self::P256),
            [0x2b, 0x81, 0x04, 0x00, 0x22] => Some(Self::P384),
            _ => None,
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::P256, Self::P384].into_iter().find(|curve| curve.name() == name)
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    /// Big-endian, without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// `04 || x || y` (SEC 1 §2.3.3).
    Ec { curve: Curve, point: Vec<u8> },
    /// RFC 8032 §5.1.5.
    Ed25519([u8; 32]),
}

/// A public key that signatures can be verified with: RSA of 2048 to 8192 bits, a point on P-256 or P-384, or an
/// Ed25519 key of full order.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Material);

impl PublicKey {
    /// Reads PEM: a SubjectPublicKeyInfo (`PUBLIC KEY`), PKCS#1 (`RSA PUBLIC KEY`), or an X.509 certificate, of which
    /// only the key counts (a chain: its first).
    ///
    /// # Errors
    /// For anything else, for a private key, for several keys, and for a key that is weak or not on its curve.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let blocks = der::pem_blocks(text).ok_or(KeyError::NotPem)?;
        if blocks.iter().any(|block| block.label.contains("PRIVATE KEY")) {
            return Err(KeyError::Private);
        }
        let first = blocks.first().ok_or(KeyError::NotPem)?;
        if blocks.len() > 1 && blocks.iter().any(|block| block.label != "CERTIFICATE") {
            return Err(KeyError::Several);
        }
        match first.label.as_str() {
            "PUBLIC KEY" => {
                let mut outer = Der(&first.der);
                let info = outer.read(der::SEQUENCE).ok_or(KeyError::Malformed)?;
                outer.finish().ok_or(KeyError::Malformed)?;
                Self::from_key_info(info)
            }
            "RSA PUBLIC KEY" => Self::from_pkcs1(&first.der),
            "CERTIFICATE" => {
                Self::from_key_info(der::certificate_key(&first.der).ok_or(KeyError::Malformed)?)
            }
            _ => Err(KeyError::NotPem),
        }
    }

    /// The content of a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7, RFC 3279 §2.3, RFC 8410 §4).
    fn from_key_info(info: &[u8]) -> Result<Self, KeyError> {
        let read = || {
            let mut info = Der(info);
            let mut algorithm = info.enter(der::SEQUENCE)?;
            let bits = info.bits()?;
            info.finish()?;
            Some((algorithm.read(der::OID)?, algorithm, bits))
        };
        let (oid, mut parameters, bits) = read().ok_or(KeyError::Malformed)?;
        match oid {
            OID_RSA => {
                parameters.skip_optional(der::NULL);
                parameters.finish().ok_or(KeyError::Malformed)?;
                Self::from_pkcs1(bits)
            }
            OID_EC => {
                let curve = parameters.read(der::OID).and_then(Curve::of_oid).ok_or(KeyError::Unsupported)?;
                parameters.finish().ok_or(KeyError::Malformed)?;
                Self::ec(curve, bits.to_vec())
            }
            OID_ED25519 => {
                parameters.finish().ok_or(KeyError::Malformed)?;
                Self::ed25519(bits)
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    /// `RSAPublicKey` (RFC 8017 §A.1.1).
    pub(super) fn from_pkcs1(bytes: &[u8]) -> Result<Self, KeyError> {
        let read = || {
            let mut outer = Der(bytes);
            let mut fields = outer.enter(der::SEQUENCE)?;
            outer.finish()?;
            let pair = (fields.positive()?, fields.positive()?);
            fields.finish()?;
            Some(pair)
        };
        let (modulus, exponent) = read().ok_or(KeyError::Malformed)?;
        Self::rsa(modulus, exponent)
    }

    /// Reads the public members of a JWK of type RSA, EC or OKP (RFC 7518 §6, RFC 8037 §2).
    ///
    /// # Errors
    /// For another `kty` or curve, a missing or malformed member, and for a key that is weak or not on its curve.
    pub fn from_jwk(jwk: &Claims) -> Result<Self, KeyError> {
        let text = |name: &'static str| jwk.get(name).and_then(Value::as_str).ok_or(KeyError::Member(name));
        let bytes = |name| decode_base64url(text(name)?).map_err(|_| KeyError::Member(name));
        match text("kty")? {
            "RSA" => Self::rsa(&bytes("n")?, &bytes("e")?),
            "EC" => {
                let curve = Curve::of_name(text("crv")?).ok_or(KeyError::Unsupported)?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != curve.bytes() || y.len() != curve.bytes() {
                    return Err(KeyError::Point);
                }
                Self::ec(curve, [&[4][..], &x, &y].concat())
            }
            "OKP" if text("crv")? == "Ed25519" => Self::ed25519(&bytes("x")?),
            _ => Err(KeyError::Unsupported),
        }
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        // RFC 7518 §6.3.1 forbids leading zeros; some encoders write one all the same, and it changes nothing.
        let [modulus, exponent] = [modulus, exponent].map(|number| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            &number[zeros..]
        });
        let bits = |number: &[u8]| {
            number.len() * 8 - number.first().map_or(0, |first| first.leading_zeros() as usize)
        };
        let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
        match bits(modulus) {
            bits @ 0..RSA_BITS_MIN => return Err(KeyError::RsaTooSmall(bits)),
            RSA_BITS_MIN..=RSA_BITS_MAX if is_odd(modulus) => {}
            RSA_BITS_MIN..=RSA_BITS_MAX => return Err(KeyError::Malformed),
            bits => return Err(KeyError::RsaTooLarge(bits)),
        }
        if !is_odd(exponent) || !(2..=RSA_EXPONENT_BITS_MAX).contains(&bits(exponent)) {
            return Err(KeyError::RsaExponent);
        }
        Self(Material::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
            .checked(Algorithm::RS256)
    }

    pub(super) fn p256(point: &[u8]) -> Result<Self, KeyError> {
        Self::ec(Curve::P256, point.to_vec())
    }

    pub(super) fn p384(point: &[u8]) -> Result<Self, KeyError> {
        Self::ec(Curve::P384, point.to_vec())
    }

    fn ec(curve: Curve, point: Vec<u8>) -> Result<Self, KeyError> {
        // Only the uncompressed form: it is what JWK carries and every tool writes.
        if point.first() != Some(&4) || point.len() != 1 + 2 * curve.bytes() {
            return Err(KeyError::Point);
        }
        let algorithm = match curve {
            Curve::P256 => Algorithm::ES256,
            Curve::P384 => Algorithm::ES384,
        };
        Self(Material::Ec { curve, point }).checked(algorithm)
    }

    pub(super) fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Point)?;
        let mut y = bytes;
        y[31] &= 0x7f;
        if ED25519_SMALL_ORDER.contains(&y) {
            return Err(KeyError::Point);
        }
        Self(Material::Ed25519(bytes)).checked(Algorithm::EdDSA)
    }

    /// That AWS-LC takes the key too: it checks that an EC point is on its curve.
    fn checked(self, algorithm: Algorithm) -> Result<Self, KeyError> {
        self.parsed(algorithm).map(|_| self)
    }

    /// Whether signatures of this algorithm can be verified with it. `ES256` goes with P-256 and `ES384` with P-384
    /// only (RFC 7518 §3.4).
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        match self.0 {
            Material::Rsa { .. } => rsa_parameters(algorithm).is_some(),
            Material::Ec { curve: Curve::P256, .. } => algorithm == Algorithm::ES256,
            Material::Ec { curve: Curve::P384, .. } => algorithm == Algorithm::ES384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDSA,
        }
    }

    /// The key as AWS-LC keeps it for `algorithm`, read once and used for every token.
    pub(super) fn parsed(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, KeyError> {
        let parse = |algorithm: &'static dyn VerificationAlgorithm, bytes: &[u8], why| {
            ParsedPublicKey::new(algorithm, bytes).map_err(|_| why)
        };
        match (&self.0, algorithm) {
            (Material::Rsa { modulus, exponent }, _) => {
                let parameters = rsa_parameters(algorithm).ok_or(KeyError::Unsupported)?;
                RsaPublicKeyComponents { n: modulus, e: exponent }
                    .to_parsed_public_key(parameters)
                    .map_err(|_| KeyError::Malformed)
            }
            (Material::Ec { curve: Curve::P256, point }, Algorithm::ES256) => {
                parse(&signature::ECDSA_P256_SHA256_FIXED, point, KeyError::Point)
            }
            (Material::Ec { curve: Curve::P384, point }, Algorithm::ES384) => {
                parse(&signature::ECDSA_P384_SHA384_FIXED, point, KeyError::Point)
            }
            (Material::Ed25519(bytes), Algorithm::EdDSA) => {
                parse(&signature::ED25519, bytes, KeyError::Point)
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    /// What kind of key it is, in a few words for an operator.
    pub fn kind(&self) -> String {
        match &self.0 {
            Material::Rsa { modulus, .. } => format!("RSA key of {} bits", modulus.len() * 8),
            Material::Ec { curve, .. } => format!("EC key on {}", curve.name()),
            Material::Ed25519(_) => "Ed25519 key".to_owned(),
        }
    }

    /// The members that RFC 7638 §3.2 digests: the required ones of its type.
    fn required_members(&self) -> Claims {
        let members = match &self.0 {
            Material::Rsa { modulus, exponent } => json!({
                "kty": "RSA", "n": encode_base64url(modulus), "e": encode_base64url(exponent),
            }),
            Material::Ec { curve, point } => {
                let (x, y) = point[1..].split_at(curve.bytes());
                json!({ "kty": "EC", "crv": curve.name(), "x": encode_base64url(x), "y": encode_base64url(y) })
            }
            Material::Ed25519(bytes) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode_base64url(bytes) })
            }
        };
        match members {
            Value::Object(members) => members,
            _ => Claims::new(),
        }
    }

    /// The key as a JWK for a key set, with `kid`, `alg` and `use` (RFC 7517 §4).
    pub fn to_jwk(&self, id: &str, algorithm: Algorithm) -> Value {
        let mut jwk = self.required_members();
        jwk.insert("kid".to_owned(), id.into());
        jwk.insert("alg".to_owned(), format!("{algorithm:?}").into());
        jwk.insert("use".to_owned(), "sig".into());
        Value::Object(jwk)
    }

    /// Its RFC 7638 thumbprint: base64url of SHA-256 over its required members in lexicographic order.
    pub fn thumbprint(&self) -> String {
        self.thumbprint_bytes().to_string()
    }

    /// The same, as its bytes.
    pub fn thumbprint_bytes(&self) -> Thumbprint {
        // A map keeps its members sorted by name, and none of these values needs an escape (RFC 7638 §3.3).
        let text = Value::Object(self.required_members()).to_string();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        Thumbprint(bytes)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}
