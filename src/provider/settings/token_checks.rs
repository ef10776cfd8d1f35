//! The settings of token checks.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

/// The checks of an ID token and of a signed userinfo response (OpenID Connect Core 1.0 section
/// 3.1.3.7).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct IdTokenSettings {
    /// The accepted algorithms. The gateway refuses a token whose `alg` is not in `algorithms`.
    /// Default: all supported algorithms.
    pub algorithms: Vec<Algorithm>,
    /// A file with a JSON Web Key Set (RFC 7517). The key set in the file replaces the published
    /// key set.
    pub jwks_file: Option<PathBuf>,
    /// PEM files with one public key each. Configured keys replace the published key set.
    pub public_key_files: Vec<PathBuf>,
    /// Audiences that `aud` may contain in addition to the client identifier. Default: none.
    pub audiences: Vec<String>,
    /// The accepted difference between the clocks of the provider and the gateway, in seconds. The
    /// maximum is 300. Default: 30.
    #[serde(deserialize_with = "leeway")]
    pub leeway_secs: u32,
}

impl Default for IdTokenSettings {
    fn default() -> Self {
        Self {
            algorithms: Algorithm::ALL.to_vec(),
            jwks_file: None,
            public_key_files: Vec::new(),
            audiences: Vec::new(),
            leeway_secs: 30,
        }
    }
}

/// The maximum leeway, in seconds. With a larger leeway, an expired token would stay valid for too
/// long.
const MAX_LEEWAY: u32 = 300;

fn leeway<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let seconds = u32::deserialize(deserializer)?;
    if seconds > MAX_LEEWAY {
        let why =
            format!("{seconds} is more than {MAX_LEEWAY} seconds; correct the clocks instead");
        return Err(D::Error::custom(why));
    }
    Ok(seconds)
}

/// The checks of a JWT access token.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AccessTokenSettings {
    /// PEM files with one public key each. The token may be signed with any of the keys.
    pub public_key_files: Vec<PathBuf>,
    /// The accepted algorithms. The gateway refuses a token whose `alg` is not in `algorithms`.
    /// Default: RS256.
    pub algorithms: Vec<Algorithm>,
    /// The required audience. Default: the client identifier.
    pub audience: Option<String>,
    /// The required issuer. Default: not checked.
    pub issuer: Option<String>,
    /// The accepted difference between the clocks of the provider and the gateway, in seconds.
    /// Default: 2.
    pub leeway_secs: u32,
    /// True if `exp`, `nbf` and `iat` may be numbers in quotes. Default: no.
    pub quoted_dates: bool,
}

impl Default for AccessTokenSettings {
    fn default() -> Self {
        Self {
            public_key_files: Vec::new(),
            algorithms: vec![Algorithm::RS256],
            audience: None,
            issuer: None,
            leeway_secs: 2,
            quoted_dates: false,
        }
    }
}

/// A signature algorithm with a public key (RFC 7518 section 3.1, RFC 8037). Algorithms with a
/// shared secret and the algorithm `none` are not supported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
    /// RSA PSS with SHA-256.
    PS256,
    /// RSA PSS with SHA-384.
    PS384,
    /// RSA PSS with SHA-512.
    PS512,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RS256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    RS384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    RS512,
}

impl Algorithm {
    /// All supported algorithms.
    pub const ALL: [Self; 9] = [
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
    ];

    /// The names of [`Self::ALL`], in the same order.
    const NAMES: &[&str] = &[
        "ES256", "ES384", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512",
    ];

    /// Returns the name of the algorithm, as in the parameter `alg` of a JSON Web Signature (RFC
    /// 7515 section 4.1.1). Names of algorithms are compared byte for byte.
    pub(in crate::provider) fn name(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
        }
    }

    /// Returns the algorithm with exactly this name.
    pub(in crate::provider) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }
}

/// The instruction for the operator if a provider signs tokens with a shared secret.
const ASYMMETRIC: &str = "set an algorithm with a public key at the provider, such as RS256 (in \
                          authentik: a Signing Key of the provider; in LemonLDAP::NG: the \
                          signature algorithm of the ID token, in the options of the relying \
                          party)";

/// Returns the instruction for the operator if `algorithm` uses a shared secret.
pub(in crate::provider) fn advice(algorithm: &str) -> String {
    match algorithm {
        "HS256" | "HS384" | "HS512" => format!("; {ASYMMETRIC}"),
        _ => String::new(),
    }
}

/// Reads the name of an algorithm. If an algorithm is known but not supported, the error states
/// that the algorithm is not supported. Without this error, an operator could believe that the name
/// of the algorithm is misspelled.
impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Algorithm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a signature algorithm")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Algorithm, E> {
                let why = match name {
                    "ES512" => {
                        "ES512 is not supported: the signature library does not implement it"
                    }
                    "ES256K" => {
                        "ES256K is not supported: the signature library does not implement it"
                    }
                    "HS256" | "HS384" | "HS512" => {
                        return Err(E::custom(format_args!(
                            "HS256, HS384 and HS512 are not supported: the key that verifies such \
                             a signature can also make it; {ASYMMETRIC}"
                        )));
                    }
                    "none" => "none is not supported: it is not a signature",
                    _ => {
                        let unknown = || E::unknown_variant(name, Algorithm::NAMES);
                        return Algorithm::named(name).ok_or_else(unknown);
                    }
                };
                Err(E::custom(why))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leeway_has_a_maximum() {
        let read = |text: &str| serde_json::from_str::<IdTokenSettings>(text);
        let leeway = |text: &str| read(text).map(|settings| settings.leeway_secs);
        assert_eq!(leeway("{}").unwrap(), 30);
        assert_eq!(leeway(r#"{"leeway_secs": 300}"#).unwrap(), 300);
        let error = leeway(r#"{"leeway_secs": 301}"#).unwrap_err().to_string();
        assert!(error.contains("301 is more than 300"), "{error}");
    }

    #[test]
    fn an_algorithm_is_read_by_its_name_and_no_other() {
        assert_eq!(Algorithm::ALL.map(Algorithm::name), Algorithm::NAMES);
        for algorithm in Algorithm::ALL {
            let quoted = format!("\"{}\"", algorithm.name());
            assert_eq!(
                serde_json::from_str::<Algorithm>(&quoted).unwrap(),
                algorithm
            );
        }
        for (name, why) in [
            ("ES512", "the signature library does not implement it"),
            (
                "HS256",
                "the key that verifies such a signature can also make it; set an algorithm with a \
                 public key at the provider, such as RS256 (in authentik: a Signing Key",
            ),
            ("none", "it is not a signature"),
            ("rs256", "unknown variant `rs256`, expected one of `ES256`"),
            ("RS256 ", "unknown variant"),
            ("", "unknown variant"),
        ] {
            let refused = serde_json::from_str::<Algorithm>(&format!("\"{name}\""));
            let text = refused.unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
        }
        assert!(serde_json::from_str::<Algorithm>("5").is_err());
    }
}
