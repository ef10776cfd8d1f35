//! All fields that the gateway writes into the requests of one route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::credentials::{self, Bearer, CredentialSettings};
use super::value::FieldValue;
use super::{AssertionNames, SignedAssertion};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::secret::Secret;
use crate::telemetry::EventLimiter;
use crate::token::TokenSet;

/// The fields that the gateway writes into the requests of one route.
#[derive(Clone, Debug)]
pub(crate) struct AppFields {
    pub(crate) names: AssertionNames,
    pub(crate) authorization: Authorization,
    /// The fields whose values are computed from the session. `None` if no value is computed from
    /// the session.
    pub(crate) computed: Option<Arc<ComputedFields>>,
    /// The assertions that the gateway signs. `None` if the app gets no signed assertion.
    pub(crate) signed: Option<Arc<SignedAssertion>>,
    token: Bearer,
}

/// The meaning of the field `Authorization` in the requests of one route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Authorization {
    /// The gateway replaces the client's `Authorization` with the access token.
    AccessToken,
    /// The client's `Authorization` is forwarded. Only a public route forwards the client's
    /// `Authorization`.
    OfClient,
    /// The gateway removes the client's `Authorization`. A computed field can set a new
    /// `Authorization`.
    Removed,
}

/// The password for Basic authentication (RFC 7617), and the settings key of the user name.
#[derive(Clone, Debug)]
pub(crate) struct BasicPassword {
    pub(crate) password: Secret<String>,
    pub(crate) user_key: Box<str>,
}

/// Fields whose values are computed from the session. A session stores the computed values together
/// with `id`.
#[derive(Debug)]
pub(crate) struct ComputedFields {
    id: u64,
    fields: Vec<(HeaderName, Computed)>,
    warnings: EventLimiter,
}

/// A computed value.
#[derive(Debug)]
enum Computed {
    Value(FieldValue),
    /// A token and its prefix. The prefix is the name of an authentication scheme, or an empty
    /// text.
    Token(Bearer, &'static str),
    Basic(FieldValue, BasicPassword),
}

/// The id that the next [`ComputedFields`] value gets.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl AppFields {
    /// Creates the fields of a route. `password` must be present if the credentials contain
    /// `basic`. The caller has checked the credentials with [`CredentialSettings::check`].
    pub(crate) fn new(
        names: AssertionNames,
        credentials: &CredentialSettings,
        password: Option<BasicPassword>,
        is_public: bool,
    ) -> Self {
        let values = names.fields.iter();
        let mut fields: Vec<_> = values
            .map(|(name, value)| (name.clone(), Computed::Value(value.clone())))
            .collect();
        // On a public route, the gateway sends a credential only if the settings of the route name
        // the credential. Some apps expect no credential on a public route.
        let is_silent = is_public && credentials.keys().next().is_none();
        let token = if is_silent {
            Bearer::None
        } else {
            credentials.token()
        };
        let mut authorization = if is_public {
            Authorization::OfClient
        } else {
            Authorization::Removed
        };
        match (token, &credentials.token_field) {
            (Bearer::None, _) => {}
            (_, Some(name)) => {
                fields.push((name.as_name().clone(), Computed::Token(token, "")));
            }
            (Bearer::AccessToken, None) => authorization = Authorization::AccessToken,
            (Bearer::IdToken, None) => {
                authorization = Authorization::Removed;
                fields.push((AUTHORIZATION, Computed::Token(token, "Bearer ")));
            }
        }
        if let (Some(basic), Some(password)) = (&credentials.basic, password) {
            authorization = Authorization::Removed;
            fields.push((AUTHORIZATION, Computed::Basic(basic.user.clone(), password)));
        }
        let computed = (!fields.is_empty()).then(|| ComputedFields::new(fields));
        Self {
            names,
            authorization,
            computed: computed.map(Arc::new),
            signed: None,
            token,
        }
    }

    /// Adds a signed assertion.
    pub(crate) fn with_signed(self, signed: Option<SignedAssertion>) -> Self {
        Self {
            signed: signed.map(Arc::new),
            ..self
        }
    }

    /// Whether the app gets an access token or an ID token.
    pub(crate) fn sends_token(&self) -> bool {
        self.token != Bearer::None
    }

    /// Returns true if the app would get the same token for both token sets. A refresh always
    /// returns a new access token, but many providers return no new ID token.
    pub(crate) fn is_same_token(&self, one: &TokenSet, other: &TokenSet) -> bool {
        match (self.token, one.id_token(), other.id_token()) {
            (Bearer::IdToken, Some(one), Some(other)) => one.matches(other.expose().as_bytes()),
            (Bearer::AccessToken | Bearer::IdToken | Bearer::None, ..) => false,
        }
    }
}

impl ComputedFields {
    fn new(fields: Vec<(HeaderName, Computed)>) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            fields,
            warnings: EventLimiter::new(Duration::from_hours(1)),
        }
    }

    /// Returns the id under which a session remembers the computed values of these fields.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The names of the fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }

    /// Computes the values of the fields, in the order of [`ComputedFields::names`]. If a field has
    /// no value, the request must not contain the field.
    pub(crate) fn values(
        &self,
        identity: &Identity,
        tokens: &TokenSet,
        now: Timestamp,
    ) -> Box<[Option<HeaderValue>]> {
        let value = |(_, computed): &(HeaderName, Computed)| match computed {
            Computed::Value(value) => {
                let text = value.text(identity)?;
                HeaderValue::from_bytes(text.as_bytes()).ok()
            }
            Computed::Token(bearer, scheme) => credentials::token(*bearer, scheme, tokens),
            Computed::Basic(user, basic) => {
                let value = credentials::basic(user, &basic.password, identity);
                value.unwrap_or_else(|_colon| {
                    self.warn_about_colon(&basic.user_key, now);
                    None
                })
            }
        };
        self.fields.iter().map(value).collect()
    }

    /// Logs at most one warning per hour that a user name cannot be encoded.
    fn warn_about_colon(&self, setting: &str, now: Timestamp) {
        if self
            .warnings
            .is_due(setting, Duration::from_millis(now.as_millis()))
        {
            tracing::warn!(
                setting,
                "A user name contains a colon, so the app gets no user name and no password"
            );
        }
    }
}
