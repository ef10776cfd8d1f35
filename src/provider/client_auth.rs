//! How we say who we are at the token endpoint (RFC 6749 section 2.3).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use super::settings::{BasicEncoding, ClientAuthentication, Settings};
use super::{Error, secret_file};
use crate::secret::Secret;

/// Our credentials, ready to be sent. Exactly one method is ever used in one request.
#[derive(Debug)]
pub(super) enum ClientAuth {
    /// The value of the `Authorization` field, marked sensitive.
    Basic(HeaderValue),
    /// Identifier and secret as parameters of the body.
    Post {
        client_id: String,
        client_secret: Secret<String>,
    },
    /// The identifier of a public client as a parameter of the body.
    Public { client_id: String },
}

impl ClientAuth {
    /// Reads the secret and prepares the credentials.
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let client_id = &settings.client_id;
        if client_id.is_empty() {
            let (key, problem) = ("client_id", "is empty");
            return Err(Error::Setting { key, problem });
        }
        let secret_path = settings.client_secret_file.as_deref();
        match settings.client_authentication {
            ClientAuthentication::ClientSecretJwt | ClientAuthentication::PrivateKeyJwt => {
                let (key, problem) = ("client_authentication", "is not there yet");
                Err(Error::Setting { key, problem })
            }
            ClientAuthentication::Auto | ClientAuthentication::ClientSecretBasic => {
                let secret = read_secret(secret_path)?;
                basic(client_id, &secret, settings.basic_encoding).map(Self::Basic)
            }
            ClientAuthentication::ClientSecretPost => Ok(Self::Post {
                client_id: client_id.clone(),
                client_secret: read_secret(secret_path)?,
            }),
            ClientAuthentication::None => match (secret_path, settings.pkce) {
                (Some(_), _) => Err(Error::Setting {
                    key: "client_secret_file",
                    problem: "is given, but client_authentication is \"none\"",
                }),
                // Without a secret the verifier is all that binds a code to us.
                (None, false) => Err(Error::Setting {
                    key: "pkce",
                    problem: "is off, but a public client has nothing else to protect its codes",
                }),
                (None, true) => Ok(Self::Public {
                    client_id: client_id.clone(),
                }),
            },
        }
    }
}

fn read_secret(path: Option<&Path>) -> Result<Secret<String>, Error> {
    let key = "client_secret_file";
    let problem = "is missing; a public client sets client_authentication = \"none\"";
    secret_file(key, path.ok_or(Error::Setting { key, problem })?)
}

/// The Basic credentials. Both parts are form-encoded first (RFC 6749 section 2.3.1), unless the
/// server is known not to decode them.
fn basic(
    client_id: &str,
    secret: &Secret<String>,
    encoding: BasicEncoding,
) -> Result<HeaderValue, Error> {
    let secret = secret.expose();
    let joined: Zeroizing<String> = match encoding {
        BasicEncoding::Form => byte_serialize(client_id.as_bytes())
            .chain([":"])
            .chain(byte_serialize(secret.as_bytes()))
            .collect::<String>()
            .into(),
        BasicEncoding::Raw if client_id.contains(':') => {
            return Err(Error::Setting {
                key: "client_id",
                problem: "contains a colon, which Basic with basic_encoding = \"raw\" cannot say",
            });
        }
        BasicEncoding::Raw => format!("{client_id}:{secret}").into(),
    };
    let value: Zeroizing<String> = format!("Basic {}", STANDARD.encode(joined.as_bytes())).into();
    let mut value = HeaderValue::from_str(&value).map_err(|_never_base64| Error::Setting {
        key: "client_secret_file",
        problem: "cannot be sent",
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(client_id: &str, secret: &str, encoding: BasicEncoding) -> String {
        let value = basic(client_id, &Secret::new(secret.to_owned()), encoding).unwrap();
        assert!(value.is_sensitive());
        let text = value
            .to_str()
            .unwrap()
            .strip_prefix("Basic ")
            .unwrap()
            .to_owned();
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn basic_credentials_are_form_encoded_first() {
        let secret = "p:ss%w+rd/ü ";
        let form = sent("my app:1", secret, BasicEncoding::Form);
        assert_eq!(form, "my+app%3A1:p%3Ass%25w%2Brd%2F%C3%BC+");
        assert_eq!(sent("3", secret, BasicEncoding::Raw), format!("3:{secret}"));
    }

    #[test]
    fn a_colon_in_a_raw_identifier_is_refused() {
        let secret = Secret::new("s".to_owned());
        assert!(basic("a:b", &secret, BasicEncoding::Raw).is_err());
    }
}
