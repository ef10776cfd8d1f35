//! Client authentication at the token endpoint (RFC 6749 section 2.3).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::Serialize;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use super::error_response::ErrorCode;
use super::jwt::signer::{Signer, SigningError};
use super::settings::{BasicEncoding, ClientAuthentication, Settings};
use super::token::TokenRequest;
use super::unused_credentials::refuse_unused;
use super::{SetupError, TokenCallError, read_text, secret_file, secret_variable, variable};
use crate::clock::Timestamp;
use crate::secret::{Environment, Secret, random};

/// The lifetime of a client assertion, in seconds. The lifetime of a client assertion is long
/// enough for one call and for a small difference between the clocks of the gateway and the
/// provider.
const ASSERTION_LIFETIME_SECS: u64 = 60;

/// The `client_assertion_type` of the gateway's client assertions (RFC 7523 section 2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The minimum length of a key for HS256, in bytes (RFC 7518 section 3.2).
const MIN_HMAC_KEY: usize = 32;

/// The gateway's credentials, from files or from environment variables. The gateway reads the files
/// with credentials again periodically, so that a changed credential takes effect without a
/// restart.
#[derive(Debug)]
pub(super) struct Credentials {
    secret: Option<Secret<String>>,
    private_key: Option<Secret<String>>,
}

impl Credentials {
    /// Reads the files and the variables that the settings name. This function blocks the calling
    /// thread while it reads the small files.
    pub(super) fn read(settings: &Settings, environment: &Environment) -> Result<Self, SetupError> {
        refuse_unused(settings)?;
        let assertion = &settings.client_assertion;
        let key = "client_secret_env";
        let secret = match (&settings.client_secret_file, &settings.client_secret_env) {
            (Some(_), Some(name)) => return Err(named_twice(key, name)),
            (Some(path), None) => Some(secret_file("client_secret_file", path)?),
            (None, Some(name)) => Some(secret_variable(key, name, environment)?),
            (None, None) => None,
        };
        let key = PRIVATE_KEY_ENV;
        let private_key = match (&assertion.private_key_file, &assertion.private_key_env) {
            (Some(_), Some(name)) => return Err(named_twice(key, name)),
            (Some(path), None) => Some(Secret::new(read_text(PRIVATE_KEY_FILE, path)?)),
            (None, Some(name)) => Some(variable(key, name, environment)?.clone()),
            (None, None) => None,
        };
        Ok(Self {
            secret,
            private_key,
        })
    }

    /// Compares the client secrets and the private keys in constant time. Returns true if the
    /// client secret or the private key has changed.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let differ =
            |one: &Option<Secret<String>>, other: &Option<Secret<String>>| match (one, other) {
                (Some(one), Some(other)) => !one.matches(other.expose().as_bytes()),
                (one, other) => one.is_some() || other.is_some(),
            };
        differ(&self.secret, &other.secret) || differ(&self.private_key, &other.private_key)
    }

    fn secret(&self) -> Result<&Secret<String>, SetupError> {
        let key = "client_secret_file";
        let problem = "is missing; for a public client write client_authentication = \"none\"";
        self.secret
            .as_ref()
            .ok_or(SetupError::Setting { key, problem })
    }
}

/// The settings that name the private key.
pub(super) const PRIVATE_KEY_FILE: &str = "client_assertion.private_key_file";
pub(super) const PRIVATE_KEY_ENV: &str = "client_assertion.private_key_env";

/// Creates the error for a credential that has two sources: a file and the variable `name`.
fn named_twice(key: &'static str, name: &str) -> SetupError {
    SetupError::Variable {
        key,
        name: name.into(),
        problem: "is named together with a file for the same secret; write only one of the two \
                  settings",
    }
}

/// The prepared client authentication. A token request uses exactly one method of client
/// authentication.
#[derive(Debug)]
pub(super) struct ClientAuth {
    client_id: Box<str>,
    method: Method,
    /// The name of the authentication method in the metadata.
    name: &'static str,
    /// The text for errors: the name of the authentication method, and the methods that the
    /// metadata lists.
    description: Box<str>,
}

#[derive(Debug)]
enum Method {
    /// The value of the `Authorization` field. The value is marked as sensitive, so that `Debug`
    /// does not print the value.
    Basic(HeaderValue),
    /// The client secret, which is sent as a parameter of the body.
    Post(Secret<String>),
    /// The parameters of the JWT that the gateway creates for each request.
    Assertion(Assertion),
    /// A public client.
    Public,
}

/// The parameters of the gateway's client assertions.
#[derive(Debug)]
struct Assertion {
    signer: Signer,
    key_id: Option<Box<str>>,
    audience: Box<str>,
}

/// The claims of a client assertion (RFC 7523 section 3).
#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: &'a str,
    iat: u64,
    exp: u64,
}

impl ClientAuth {
    /// Chooses and prepares the authentication method. `supported` is
    /// `token_endpoint_auth_methods_supported` of the metadata. If the settings choose no method,
    /// this function uses `supported` to choose a method.
    pub(super) fn new(
        settings: &Settings,
        supported: Option<&[String]>,
        credentials: &Credentials,
    ) -> Result<Self, SetupError> {
        if settings.client_id.is_empty() {
            let (key, problem) = ("client_id", "is empty");
            return Err(SetupError::Setting { key, problem });
        }
        let set = settings.client_authentication;
        let method = if set == ClientAuthentication::Auto {
            choose(supported, credentials)?
        } else {
            set
        };
        let name = name_of(method);
        let description = match supported {
            Some(listed) => format!("{name} (the metadata lists {})", listed.join(", ")).into(),
            None => name.into(),
        };
        let method = match method {
            // `choose` never returns `Auto`.
            ClientAuthentication::Auto | ClientAuthentication::ClientSecretBasic => {
                let encoding = settings.basic_encoding;
                Method::Basic(basic(&settings.client_id, credentials.secret()?, encoding)?)
            }
            ClientAuthentication::ClientSecretPost => Method::Post(credentials.secret()?.clone()),
            ClientAuthentication::ClientSecretJwt => secret_jwt(settings, credentials.secret()?)?,
            ClientAuthentication::PrivateKeyJwt => private_key_jwt(settings, credentials)?,
            ClientAuthentication::None => public_client(settings)?,
        };
        Ok(Self {
            client_id: (&*settings.client_id).into(),
            method,
            name,
            description,
        })
    }

    /// Returns the name of the authentication method in the metadata.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Adds the authentication method to `error` if `error` is a refusal of the client
    /// authentication.
    pub(super) fn explain(&self, error: TokenCallError) -> TokenCallError {
        let TokenCallError::Misconfigured(refusal) = error else {
            return error;
        };
        if refusal.code != Some(ErrorCode::InvalidClient) {
            return TokenCallError::Misconfigured(refusal);
        }
        TokenCallError::ClientRefused {
            authentication: self.description.clone(),
            refusal,
        }
    }

    /// Adds the parameters or the field of the client authentication to `request` (RFC 6749 section
    /// 2.3.1, RFC 7523 section 2.2).
    ///
    /// # Errors
    ///
    /// Returns [`TokenCallError::Assertion`].
    pub(super) fn apply<'a>(
        &'a self,
        request: &mut TokenRequest<'a>,
        now: Timestamp,
    ) -> Result<(), TokenCallError> {
        match &self.method {
            Method::Basic(value) => request.authorization = Some(value.clone()),
            Method::Post(secret) => {
                request.push("client_id", &self.client_id);
                request.push("client_secret", secret.expose());
            }
            Method::Public => request.push("client_id", &self.client_id),
            Method::Assertion(assertion) => {
                let jwt = assertion.sign(&self.client_id, now);
                request.push("client_id", &self.client_id);
                request.push("client_assertion_type", ASSERTION_TYPE);
                request.push_owned("client_assertion", jwt.map_err(TokenCallError::Assertion)?);
            }
        }
        Ok(())
    }
}

impl Assertion {
    /// Creates an assertion. Each client assertion has its own identifier (`jti`), so that the
    /// provider can refuse a replayed client assertion.
    fn sign(&self, client_id: &str, now: Timestamp) -> Result<Secret<String>, SigningError> {
        let id = random::<16>().map_err(SigningError::Identifier)?;
        let iat = now.as_secs();
        let claims = AssertionClaims {
            iss: client_id,
            sub: client_id,
            aud: &self.audience,
            jti: &URL_SAFE_NO_PAD.encode(id),
            iat,
            exp: iat.saturating_add(ASSERTION_LIFETIME_SECS),
        };
        self.signer.sign(self.key_id.as_deref(), &claims)
    }
}

/// Returns the `Authorization` field of a request that always authenticates with the client secret,
/// whatever the method at the token endpoint is. `key` is the setting of the request.
pub(super) fn basic_authorization(
    key: &'static str,
    settings: &Settings,
    credentials: &Credentials,
) -> Result<HeaderValue, SetupError> {
    let problem = "authenticates with the client secret, but the settings contain no client secret";
    let secret = credentials.secret.as_ref();
    let secret = secret.ok_or(SetupError::Setting { key, problem })?;
    basic(&settings.client_id, secret, settings.basic_encoding)
}

/// Returns the name of an authentication method in the metadata.
fn name_of(method: ClientAuthentication) -> &'static str {
    match method {
        ClientAuthentication::Auto | ClientAuthentication::ClientSecretBasic => {
            "client_secret_basic"
        }
        ClientAuthentication::ClientSecretPost => "client_secret_post",
        ClientAuthentication::ClientSecretJwt => "client_secret_jwt",
        ClientAuthentication::PrivateKeyJwt => "private_key_jwt",
        ClientAuthentication::None => "none",
    }
}

/// Returns the first method in the gateway's order of preference that the metadata lists and the
/// configured credentials allow. The gateway does not try several methods at the provider, because
/// a failed attempt may lock the client at the provider.
fn choose(
    supported: Option<&[String]>,
    credentials: &Credentials,
) -> Result<ClientAuthentication, SetupError> {
    use ClientAuthentication as By;
    let (has_key, has_secret) = (
        credentials.private_key.is_some(),
        credentials.secret.is_some(),
    );
    // An empty list of methods in the metadata is treated like a missing list.
    let Some(supported) = supported.filter(|listed| !listed.is_empty()) else {
        if has_key {
            return Ok(By::PrivateKeyJwt);
        }
        // A missing secret is an error, because a missing secret does not mean that the client is a
        // public client.
        return credentials.secret().map(|_secret| By::ClientSecretBasic);
    };
    // A private key is the preferred method, because the private key never leaves the gateway.
    let ours = [
        ("private_key_jwt", By::PrivateKeyJwt, has_key),
        ("client_secret_basic", By::ClientSecretBasic, has_secret),
        ("client_secret_post", By::ClientSecretPost, has_secret),
        ("client_secret_jwt", By::ClientSecretJwt, has_secret),
    ];
    ours.into_iter()
        .find(|(name, _by, able)| *able && supported.iter().any(|listed| listed == name))
        .map(|(_name, by, _able)| by)
        .ok_or(SetupError::Setting {
            key: "client_authentication",
            problem: "is \"auto\", but the metadata lists no method that works with the configured \
                      credentials; set the method, or configure the file that it needs",
        })
}

fn secret_jwt(settings: &Settings, secret: &Secret<String>) -> Result<Method, SetupError> {
    if secret.expose().len() < MIN_HMAC_KEY {
        return Err(SetupError::Setting {
            key: "client_secret_file",
            problem: "is shorter than the 32 bytes that client_secret_jwt needs \
                      (RFC 7518 section 3.2)",
        });
    }
    Ok(Method::Assertion(Assertion {
        signer: Signer::from_secret(secret),
        // Some providers refuse a client assertion with a `kid` if the client assertion is signed
        // with a client secret.
        key_id: None,
        audience: audience(settings)?,
    }))
}

fn private_key_jwt(settings: &Settings, credentials: &Credentials) -> Result<Method, SetupError> {
    let assertion = &settings.client_assertion;
    let Some(pem) = &credentials.private_key else {
        return Err(SetupError::Setting {
            key: PRIVATE_KEY_FILE,
            problem: "is missing, but client_authentication is \"private_key_jwt\"",
        });
    };
    let signer = Signer::from_pem(pem.expose(), assertion.algorithm);
    let signer = signer.map_err(|source| {
        let (key, place) = match (&assertion.private_key_file, &assertion.private_key_env) {
            (None, Some(name)) => (PRIVATE_KEY_ENV, format!("the variable {name}")),
            (Some(path), _) => (PRIVATE_KEY_FILE, path.display().to_string()),
            (None, None) => (PRIVATE_KEY_FILE, String::new()),
        };
        SetupError::PrivateKey {
            key,
            place: place.into(),
            source,
        }
    })?;
    Ok(Method::Assertion(Assertion {
        signer,
        key_id: assertion.key_id.as_deref().map(Into::into),
        audience: audience(settings)?,
    }))
}

/// Returns the audience of client assertions, which is a configured text and never a value from the
/// metadata. If a malicious provider could choose the audience, the malicious provider could use
/// the gateway's client assertion at another provider.
fn audience(settings: &Settings) -> Result<Box<str>, SetupError> {
    // If the provider has several tenants, the configured issuer is a template, which is not a
    // valid audience.
    let issuer = settings
        .issuer
        .as_deref()
        .filter(|_| settings.tenants.is_empty());
    let audience = settings.client_assertion.audience.as_deref().or(issuer);
    let key = "client_assertion.audience";
    let problem = "is missing, and there is no issuer without tenants to use instead";
    match audience {
        Some(audience) if !audience.is_empty() => Ok(audience.into()),
        Some(_) | None => Err(SetupError::Setting { key, problem }),
    }
}

fn public_client(settings: &Settings) -> Result<Method, SetupError> {
    // If the client has no secret, only the PKCE verifier prevents another client from using the
    // code.
    if !settings.pkce {
        return Err(SetupError::Setting {
            key: "pkce",
            problem: "is off, but a public client has no other protection of its codes",
        });
    }
    Ok(Method::Public)
}

/// Creates the value for the Basic scheme. The function form-encodes the client identifier and the
/// secret, and joins the two results (RFC 6749 section 2.3.1). If a provider does not decode the
/// client identifier and the secret, the operator can switch off the form-encoding.
fn basic(
    client_id: &str,
    secret: &Secret<String>,
    encoding: BasicEncoding,
) -> Result<HeaderValue, SetupError> {
    let secret = secret.expose();
    let joined: Zeroizing<String> = match encoding {
        BasicEncoding::Form => byte_serialize(client_id.as_bytes())
            .chain([":"])
            .chain(byte_serialize(secret.as_bytes()))
            .collect::<String>()
            .into(),
        // An unencoded client identifier must not contain a colon, because a server splits the
        // decoded text at the first colon (RFC 7617 section 2).
        BasicEncoding::Raw if client_id.contains(':') => {
            return Err(SetupError::Setting {
                key: "client_id",
                problem: "contains a colon, which basic_encoding = \"raw\" cannot encode",
            });
        }
        BasicEncoding::Raw => format!("{client_id}:{secret}").into(),
    };
    let value: Zeroizing<String> = format!("Basic {}", STANDARD.encode(joined.as_bytes())).into();
    let mut value = HeaderValue::from_str(&value).map_err(|_never_base64| SetupError::Setting {
        key: "client_secret_file",
        problem: "cannot be sent in a field",
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
