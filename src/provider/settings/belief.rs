//! What is believed of tokens.

use std::path::PathBuf;

use serde::Deserialize;

/// How an ID token and a signed userinfo answer are checked (OpenID Connect Core 1.0 section
/// 3.1.3.7).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdTokenSettings {
    /// The algorithms that are believed, whatever a token says. Default: all that are known.
    pub algorithms: Vec<Algorithm>,
    /// A file with the server's JSON Web Key Set (RFC 7517), instead of the one it publishes.
    pub jwks_file: Option<PathBuf>,
    /// PEM files with one public key each, instead of what the server publishes.
    pub public_key_files: Vec<PathBuf>,
    /// Audiences that may stand beside us in `aud`. Default: none.
    pub audiences: Vec<String>,
    /// How far the server's clock may differ from ours, in seconds. Default: 30.
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

/// How a JWT access token is checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessTokenSettings {
    /// PEM files with one public key each. Any of them may have signed.
    pub public_key_files: Vec<PathBuf>,
    /// The algorithms that are believed, whatever a token says. Default: RS256.
    pub algorithms: Vec<Algorithm>,
    /// Who the token must be for. Default: the client identifier.
    pub audience: Option<String>,
    /// Who must have issued it. Default: not looked at.
    pub issuer: Option<String>,
    /// How far the server's clock may differ from ours, in seconds. Default: 2.
    pub leeway_secs: u32,
    /// Whether `exp`, `nbf` and `iat` may be numbers in quotes. Default: no.
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

/// A signature algorithm with a public key (RFC 7518 section 3.1, RFC 8037). There is none with a
/// shared secret and no `none`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
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
    /// All that are known.
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
}
