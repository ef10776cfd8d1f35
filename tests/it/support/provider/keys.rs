//! The keys of a provider, and signatures.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use aws_lc_rs::{hmac, rsa};
use serde_json::{Value, json};

use super::token::base64url;

/// One key pair of each type.
struct Material {
    rsa: rsa::KeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Material {
    fn generate() -> Self {
        Self {
            rsa: rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }
}

/// Generating RSA keys is slow, so all tests share three pairs of each type.
static MATERIALS: [LazyLock<Material>; 3] = [
    LazyLock::new(Material::generate),
    LazyLock::new(Material::generate),
    LazyLock::new(Material::generate),
];

/// The keys of a provider at one time, with their identifiers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Keys {
    material: usize,
    name: usize,
}

impl Keys {
    /// The first keys of every provider.
    pub(crate) fn first() -> Self {
        let (material, name) = (0, 0);
        Self { material, name }
    }

    /// The keys after a rotation.
    pub(crate) fn next(self) -> Self {
        Self {
            material: 1 - self.material,
            name: self.name + 1,
        }
    }

    /// An attacker's keys with the same identifiers.
    pub(crate) fn of_an_attacker(self) -> Self {
        Self {
            material: 2,
            ..self
        }
    }

    fn material(self) -> &'static Material {
        &MATERIALS[self.material]
    }

    /// The identifier of the key for `alg`.
    pub(crate) fn kid(self, alg: &str) -> String {
        let family = match alg {
            "ES256" => "p256",
            "ES384" => "p384",
            "EdDSA" => "ed",
            _ => "rsa",
        };
        format!("{family}-{}", self.name)
    }

    /// Signs with `alg` (RFC 7518 section 3.1, RFC 8037).
    pub(crate) fn sign(self, alg: &str, message: &[u8]) -> Vec<u8> {
        let (material, random) = (self.material(), SystemRandom::new());
        let rsa = |padding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; material.rsa.public_modulus_len()];
            let signed = material.rsa.sign(padding, &random, message, &mut signature);
            signed.map(|()| signature).unwrap()
        };
        match alg {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => material
                .p256
                .sign(&random, message)
                .unwrap()
                .as_ref()
                .into(),
            "ES384" => material
                .p384
                .sign(&random, message)
                .unwrap()
                .as_ref()
                .into(),
            "EdDSA" => material.ed.sign(message).as_ref().into(),
            _ => panic!("no key for {alg:?}"),
        }
    }

    /// The JSON Web Key (RFC 7517) that verifies `alg`.
    pub(crate) fn jwk(self, alg: &str) -> Value {
        let material = self.material();
        let mut key = match alg {
            "ES256" => point("P-256", material.p256.public_key().as_ref()),
            "ES384" => point("P-384", material.p384.public_key().as_ref()),
            "EdDSA" => {
                let x = base64url(material.ed.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "x": x })
            }
            _ => {
                let (n, e) = self.rsa_numbers();
                json!({ "kty": "RSA", "n": base64url(n), "e": base64url(e) })
            }
        };
        key["kid"] = self.kid(alg).into();
        key["use"] = "sig".into();
        key
    }

    /// All published keys.
    pub(crate) fn jwks(self) -> Value {
        let keys = ["RS256", "ES256", "ES384", "EdDSA"].map(|alg| self.jwk(alg));
        json!({ "keys": keys })
    }

    /// Modulus and exponent of the RSA key.
    pub(crate) fn rsa_numbers(self) -> (Vec<u8>, Vec<u8>) {
        let key = self.material().rsa.public_key();
        let n = key.modulus().big_endian_without_leading_zero().to_vec();
        let e = key.exponent().big_endian_without_leading_zero().to_vec();
        (n, e)
    }

    /// The RSA key as `SubjectPublicKeyInfo`.
    pub(crate) fn rsa_der(self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.material().rsa.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    /// The RSA key in PEM.
    pub(crate) fn rsa_pem(self) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(self.rsa_der());
        let lines: Vec<&str> = (0..text.len())
            .step_by(64)
            .map(|from| &text[from..text.len().min(from + 64)])
            .collect();
        let (begin, end) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----");
        format!("{begin}\n{}\n{end}\n", lines.join("\n"))
    }
}

fn point(curve: &str, uncompressed: &[u8]) -> Value {
    let (x, y) = uncompressed[1..].split_at(uncompressed.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
}

/// The `HS256` signature with `secret`.
pub(crate) fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, message).as_ref().to_vec()
}

/// `at_hash` and `c_hash` (OpenID Connect Core 1.0 section 3.1.3.6).
pub(crate) fn left_half(alg: &str, text: &str) -> String {
    let algorithm = match alg {
        "RS384" | "PS384" | "ES384" => &SHA384,
        "RS512" | "PS512" | "EdDSA" => &SHA512,
        _ => &SHA256,
    };
    let hash = digest(algorithm, text.as_bytes());
    let hash = hash.as_ref();
    base64url(&hash[..hash.len() / 2])
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    };

    use super::super::token::unbase64url;
    use super::*;

    #[test]
    fn signatures_verify_with_the_published_key() {
        let keys = Keys::first();
        let number = |alg: &str, name: &str| unbase64url(keys.jwk(alg)[name].as_str().unwrap());
        let message = b"header.payload";
        for (alg, verifier) in [
            ("RS256", &RSA_PKCS1_2048_8192_SHA256),
            ("PS256", &RSA_PSS_2048_8192_SHA256),
        ] {
            let (n, e) = (number(alg, "n"), number(alg, "e"));
            let key = RsaPublicKeyComponents { n: &n, e: &e };
            key.verify(verifier, message, &keys.sign(alg, message))
                .unwrap();
            assert!(
                key.verify(verifier, b"other", &keys.sign(alg, message))
                    .is_err()
            );
        }
        let curves: [(&str, &'static dyn VerificationAlgorithm); 2] = [
            ("ES256", &ECDSA_P256_SHA256_FIXED),
            ("ES384", &ECDSA_P384_SHA384_FIXED),
        ];
        for (alg, verifier) in curves {
            let bytes = [vec![4], number(alg, "x"), number(alg, "y")].concat();
            let key = UnparsedPublicKey::new(verifier, bytes);
            key.verify(message, &keys.sign(alg, message)).unwrap();
        }
        let key = UnparsedPublicKey::new(&ED25519, number("EdDSA", "x"));
        key.verify(message, &keys.sign("EdDSA", message)).unwrap();
        assert!(
            key.verify(message, &keys.next().sign("EdDSA", message))
                .is_err()
        );
    }

    #[test]
    fn a_rotation_changes_keys_and_names_and_an_attacker_only_the_keys() {
        let (first, next) = (Keys::first(), Keys::first().next());
        assert_ne!(first.kid("RS256"), next.kid("RS256"));
        assert_ne!(first.jwk("RS256")["n"], next.jwk("RS256")["n"]);
        let attacker = first.of_an_attacker();
        assert_eq!(first.kid("EdDSA"), attacker.kid("EdDSA"));
        assert_ne!(first.jwk("EdDSA")["x"], attacker.jwk("EdDSA")["x"]);
    }

    #[test]
    fn hashes_are_those_of_the_standards_example() {
        // OpenID Connect Core 1.0, appendix A.3 and A.4.
        let access_token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(left_half("RS256", access_token), "77QmUPtjPfzWtF2AnpK9RQ");
        let code = "Qcb0Orv1zh30vL1MPRsbm-diHiMwcLyZvn1arpZv-Jxf_11jnpEX3Tgfvk";
        assert_eq!(left_half("RS256", code), "LDktKdoQak3Pk0cnXxCltA");
    }
}
