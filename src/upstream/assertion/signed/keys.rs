//! The private keys that sign assertions, and the published set of their public keys.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::secret::read_file;

/// The number of bytes of a coordinate of the curve P-256.
const COORDINATE: usize = 32;

/// The reason why a key file is refused. The error never shows the key.
///
/// Responsible: the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SigningKeyError {
    /// The key is on another curve, or is not a valid key.
    #[error(
        "{} is not a key on the curve P-256; this command creates one: openssl genpkey -algorithm EC \
         -pkeyopt ec_paramgen_curve:P-256", .0.display()
    )]
    Curve(PathBuf),
    /// The key is encrypted. The gateway cannot ask for a passphrase.
    #[error("{} is encrypted; remove the passphrase", .0.display())]
    Encrypted(PathBuf),
    /// The file does not contain exactly one private key.
    #[error("{} is not one private key in PEM", .0.display())]
    NotOneKey(PathBuf),
    /// The file cannot be read.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// Another file contains the same key.
    #[error("{} has the same key as another file of the list", .0.display())]
    Repeated(PathBuf),
}

/// One private key.
struct SigningKey {
    pair: EcdsaKeyPair,
    /// The thumbprint of the public key (RFC 7638).
    id: String,
    /// The public key as a JSON Web Key (RFC 7517).
    public: Value,
    /// The encoded header of the JSON Web Tokens that this key signs.
    header: String,
}

/// The private keys of the gateway. The first key signs. All keys are published, so that an app
/// already knows the next key before the next key signs.
pub(crate) struct SigningKeys {
    first: SigningKey,
    others: Vec<SigningKey>,
}

impl SigningKeys {
    /// Reads the key files. Returns `None` if the list is empty.
    ///
    /// # Errors
    ///
    /// The position of each file that cannot be used, with the reason.
    pub(crate) fn from_files(
        paths: &[PathBuf],
    ) -> Result<Option<Self>, Vec<(usize, SigningKeyError)>> {
        let mut keys: Vec<SigningKey> = Vec::new();
        let mut errors = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            match SigningKey::from_file(path) {
                Ok(key) if keys.iter().any(|other| other.id == key.id) => {
                    errors.push((index, SigningKeyError::Repeated(path.clone())));
                }
                Ok(key) => keys.push(key),
                Err(error) => errors.push((index, error)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut keys = keys.into_iter();
        let first = keys.next();
        Ok(first.map(|first| Self {
            first,
            others: keys.collect(),
        }))
    }

    /// Returns the set of public keys as JSON (RFC 7517 section 5).
    pub(crate) fn key_set(&self) -> String {
        let all = [&self.first].into_iter().chain(&self.others);
        let keys: Vec<&Value> = all.map(|key| &key.public).collect();
        json!({ "keys": keys }).to_string()
    }

    /// Signs `claims` with the first key. Returns the JSON Web Token in its compact form, as the
    /// value of a field. Returns `None` if the cryptographic library cannot sign.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Option<HeaderValue> {
        let payload = serde_json::to_vec(claims).ok()?;
        let mut token = self.first.header.clone();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let random = SystemRandom::new();
        let signature = self.first.pair.sign(&random, token.as_bytes()).ok()?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        let mut value = HeaderValue::try_from(token).ok()?;
        // An app accepts the assertion as the proof of an identity, so the assertion must not
        // appear in debug output.
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [&self.first].into_iter().chain(&self.others);
        f.debug_list().entries(all.map(|key| &key.id)).finish()
    }
}

impl SigningKey {
    fn from_file(path: &Path) -> Result<Self, SigningKeyError> {
        let text = read_file(path).map_err(|source| SigningKeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        let text = text.expose();
        if text.contains("ENCRYPTED") {
            return Err(SigningKeyError::Encrypted(path.to_owned()));
        }
        if text.matches("PRIVATE KEY-----").count() != 2 {
            return Err(SigningKeyError::NotOneKey(path.to_owned()));
        }
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_invalid| SigningKeyError::NotOneKey(path.to_owned()))?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_der(algorithm, der.secret_der()).ok();
        let key = pair.and_then(Self::new);
        key.ok_or_else(|| SigningKeyError::Curve(path.to_owned()))
    }

    fn new(pair: EcdsaKeyPair) -> Option<Self> {
        // The public key is an uncompressed point: the byte 4 and two coordinates (SEC 1 section
        // 2.3.3).
        let point = pair.public_key().as_ref().strip_prefix(&[4])?;
        let (x, y) = point.split_at_checked(COORDINATE)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638 section 3 defines these members, their order, and that there is no white space.
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()));
        let header = json!({ "alg": "ES256", "kid": id, "typ": "JWT" });
        let public = json!({
            "kty": "EC",
            "crv": "P-256",
            "x": x,
            "y": y,
            "kid": id,
            "alg": "ES256",
            "use": "sig",
        });
        Some(Self {
            pair,
            id,
            public,
            header: URL_SAFE_NO_PAD.encode(header.to_string()),
        })
    }
}

#[cfg(test)]
pub(in crate::upstream::assertion) mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    /// The example key of RFC 7517 appendix A.2, in PKCS#8.
    const KEY: &str = include_str!("../../../../tests/data/keys/p-256.pem");

    /// Writes key files into a new folder.
    fn files(texts: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let written = texts.iter().enumerate().map(|(index, text)| {
            let path = folder.path().join(index.to_string());
            std::fs::write(&path, text).unwrap();
            path
        });
        let paths = written.collect();
        (folder, paths)
    }

    pub(in crate::upstream::assertion) fn keys(texts: &[&str]) -> SigningKeys {
        let (_folder, paths) = files(texts);
        SigningKeys::from_files(&paths).unwrap().unwrap()
    }

    pub(in crate::upstream::assertion) fn new_key() -> String {
        rcgen::KeyPair::generate().unwrap().serialize_pem()
    }

    /// The header and the claims of a token whose signature fits `key`.
    pub(in crate::upstream::assertion) fn verified(
        token: &HeaderValue,
        key: &Value,
    ) -> Option<(Value, Value)> {
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let token = token.to_str().unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let coordinate = |name: &str| decode(key[name].as_str().unwrap());
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        let json = |part| serde_json::from_slice(&decode(part)).unwrap();
        key.verify(signed.as_bytes(), &decode(signature)).ok()?;
        Some((json(header), json(claims)))
    }

    fn key_set(keys: &SigningKeys) -> Vec<Value> {
        let set: Value = serde_json::from_str(&keys.key_set()).unwrap();
        set["keys"].as_array().unwrap().clone()
    }

    #[test]
    fn the_first_key_signs_and_all_keys_are_published() {
        let (first, second) = (new_key(), new_key());
        let keys = keys(&[&first, &second]);
        let published = key_set(&keys);
        assert_eq!(published.len(), 2);
        let token = keys.sign(&json!({ "sub": "42" })).unwrap();
        assert!(token.is_sensitive());
        let (header, claims) = verified(&token, &published[0]).unwrap();
        let id = published[0]["kid"].as_str().unwrap();
        assert_eq!(header, json!({ "alg": "ES256", "kid": id, "typ": "JWT" }));
        assert_eq!(claims, json!({ "sub": "42" }));
        assert_eq!(verified(&token, &published[1]), None);
    }

    #[test]
    fn a_key_is_published_with_its_thumbprint_and_without_its_private_part() {
        let keys = keys(&[KEY]);
        let expected = json!({
            "kty": "EC",
            "crv": "P-256",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            "kid": "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s",
            "alg": "ES256",
            "use": "sig",
        });
        assert_eq!(key_set(&keys), [expected]);
        let shown = format!("{keys:?}");
        assert_eq!(shown, "[\"cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s\"]");
    }

    #[test]
    fn a_file_that_is_not_one_private_key_on_p_256_is_refused() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let (key, other) = (new_key(), other.serialize_pem());
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let cut = key.replace("-----END", "");
        let twice = [&*key, &*new_key()].concat();
        let long = [&*new_key(), &*"\n".repeat(64 * 1024)].concat();
        let (_folder, mut paths) = files(&[
            &key,
            &other,
            certificate,
            &encrypted,
            &cut,
            &twice,
            &key,
            &long,
        ]);
        paths.push("/does/not/exist".into());
        let errors = SigningKeys::from_files(&paths).unwrap_err();
        let said: Vec<(usize, String)> = errors
            .iter()
            .map(|(index, error)| (*index, error.to_string()))
            .collect();
        let expected = [
            (
                1,
                "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            ),
            (2, "is not one private key in PEM"),
            (3, "is encrypted; remove the passphrase"),
            (4, "is not one private key in PEM"),
            (5, "is not one private key in PEM"),
            (6, "has the same key as another file"),
            (7, "cannot be read"),
            (8, "cannot be read"),
        ];
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for ((index, text), (place, part)) in said.iter().zip(expected) {
            assert_eq!(*index, place, "{said:#?}");
            assert!(text.contains(part), "{said:#?}");
        }
        assert!(SigningKeys::from_files(&[]).unwrap().is_none());
    }
}
