//! Checks the claims of an ID token (OpenID Connect Core 1.0 section 3.1.3.7) and of a signed
//! userinfo response (section 5.3.2).
//!
//! [`jwt::verify`] has already verified the signature, with the header requirements of
//! [`IdTokenRules::expected`]. Some claims are required. An optional claim is checked only if the
//! claim is present. If a claim has an unexpected type, the token is invalid.

mod logout;

use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub(crate) use self::logout::LogoutClaims;
use super::SetupError;
use super::claims::{self, Dates};
use super::issuer::{self, Issuer};
use super::json::Object;
use super::jwt::{self, ExpectedHeader, TokenError, VerifiedToken};
use super::settings::{Algorithm, Settings};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::token::Authentication;

/// The maximum age of an ID token. An ID token comes directly from the token endpoint and is a few
/// seconds old. An ID token that is older than the longest possible login must come from an earlier
/// login.
const MAX_AGE: Duration = Duration::from_hours(1);

/// The login to which the ID token must belong.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoginContext<'a> {
    /// The nonce of the authorization request.
    pub(super) nonce: &'a str,
    /// The access token in the same response as the ID token.
    pub(super) access_token: &'a Secret<String>,
    /// The exchanged code.
    pub(super) code: &'a Secret<String>,
    /// The time when the authorization request was sent.
    pub(super) begun_at: Timestamp,
    /// The `max_age` of the authorization request, if it differs from the settings.
    pub(super) max_age: Option<Duration>,
}

/// The session to which the ID token of a refresh must belong.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefreshContext<'a> {
    /// The access token in the same response as the ID token.
    pub(super) access_token: &'a Secret<String>,
    /// The nonce and the authentication time from the ID token of the login, or `None` if the login
    /// had no ID token.
    pub(super) authentication: Option<&'a Authentication>,
}

/// The claims of a valid ID token.
#[derive(Debug)]
pub(super) struct IdClaims {
    pub(super) members: Object,
    /// The issuer. Issuer and subject together identify the user. If the provider has several
    /// tenants, the issuer of the token differs from the configured template.
    pub(super) issuer: Box<str>,
    pub(super) subject: Box<str>,
}

/// The requirements for the ID tokens of one provider.
#[derive(Debug)]
pub(super) struct IdTokenRules {
    client_id: String,
    issuer: Issuer,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    dates: Dates,
    max_age: Option<Duration>,
    acr_values: Vec<String>,
}

impl IdTokenRules {
    /// # Errors
    ///
    /// Returns [`SetupError::Setting`] if no issuer or no algorithm is configured.
    pub(super) fn new(settings: &Settings, issuer: Option<Issuer>) -> Result<Self, SetupError> {
        let refuse = |key, problem| SetupError::Setting { key, problem };
        let id_token = &settings.id_token;
        if id_token.algorithms.is_empty() {
            return Err(refuse("id_token.algorithms", "is empty"));
        }
        let request = &settings.authorization_request;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Ok(Self {
            client_id: settings.client_id.clone(),
            issuer: issuer.ok_or_else(|| refuse("issuer", "is missing, but ID tokens need it"))?,
            audiences: id_token.audiences.clone(),
            algorithms: id_token.algorithms.clone(),
            dates: Dates {
                leeway: seconds(id_token.leeway_secs),
                // OpenID Connect Core 1.0 section 2 requires dates to be numbers.
                quoted: false,
            },
            max_age: request.max_age_secs.map(seconds),
            acr_values: request.acr_values.clone(),
        })
    }

    /// Returns the requirements for the header of ID tokens and of signed userinfo responses.
    pub(super) fn expected(&self) -> ExpectedHeader<'_> {
        ExpectedHeader {
            algorithms: &self.algorithms,
            types: jwt::ID_TOKEN_TYPES,
        }
    }

    /// Checks every claim of an ID token whose signature has been verified.
    ///
    /// # Errors
    ///
    /// Returns [`TokenError`] for the first problem that is found.
    pub(super) fn check(
        &self,
        verified: VerifiedToken,
        of: &LoginContext<'_>,
        now: Timestamp,
    ) -> Result<IdClaims, TokenError> {
        let members = &verified.members;
        check_not_logout_token(members)?;
        let issuer = self.issuer_of(&verified)?;
        self.check_audience(members)?;
        self.check_dates(members, now)?;
        // The nonce prevents the use of an ID token from another login.
        let nonce = claims::text(members, "nonce")?;
        if nonce.ok_or(TokenError::Claim("nonce"))? != of.nonce {
            return Err(TokenError::Nonce);
        }
        let subject = claims::subject(members)?.into();
        check_hash(&verified, "at_hash", of.access_token)?;
        check_hash(&verified, "c_hash", of.code)?;
        self.check_authentication(members, of, now)?;
        Ok(IdClaims {
            issuer: issuer.into(),
            subject,
            members: verified.members,
        })
    }

    /// Returns the issuer. Issuer and subject together identify the user.
    ///
    /// # Errors
    ///
    /// Returns [`TokenError::Issuer`] if the issuer of the token is not a configured issuer. The
    /// function can also return [`TokenError::Claim`], [`TokenError::Tenant`] or
    /// [`TokenError::KeyIssuer`].
    pub(super) fn issuer_of<'a>(&self, verified: &'a VerifiedToken) -> Result<&'a str, TokenError> {
        self.check_issuer(&verified.members, verified.key_issuer.as_deref())
    }

    /// Checks the claims of an ID token from a refresh (OpenID Connect Core 1.0 section 12.2). The
    /// caller has already checked the issuer and the user. An ID token from a refresh does not need
    /// a nonce.
    ///
    /// # Errors
    ///
    /// Returns [`TokenError`] for the first problem that is found.
    pub(super) fn check_refreshed(
        &self,
        verified: &VerifiedToken,
        of: &RefreshContext<'_>,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let members = &verified.members;
        check_not_logout_token(members)?;
        self.check_audience(members)?;
        self.check_dates(members, now)?;
        claims::subject(members)?;
        check_hash(verified, "at_hash", of.access_token)?;
        let nonce = claims::text(members, "nonce")?;
        if let Some(login) = of.authentication {
            if nonce.is_some_and(|nonce| nonce != &*login.nonce) {
                return Err(TokenError::Nonce);
            }
            self.check_refreshed_auth_time(members, login, now)?;
        }
        // The ID token of a refresh may omit `acr`, because the user does not authenticate again.
        if self.acr_values.is_empty() || !members.contains_key("acr") {
            return Ok(());
        }
        self.check_context(members)
    }

    /// Checks that `auth_time` is not earlier than the `auth_time` of the login and not in the
    /// future.
    fn check_refreshed_auth_time(
        &self,
        members: &Object,
        login: &Authentication,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let Some(then) = login.auth_time else {
            return Ok(());
        };
        match self.dates.read(members, "auth_time")? {
            Some(at) if at < then => Err(TokenError::TooOld("auth_time")),
            Some(at) if self.dates.is_ahead(at, now) => Err(TokenError::NotYetValid("auth_time")),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the time when the user authenticated, if the token contains a valid time.
    pub(super) fn auth_time(&self, claims: &IdClaims) -> Option<Timestamp> {
        self.dates.read(&claims.members, "auth_time").ok().flatten()
    }

    /// Checks the claims of a signed userinfo response. `issuer` is the issuer of the ID token.
    /// Every claim that this function checks is optional. The caller compares the `sub` of the
    /// userinfo with the `sub` of the ID token.
    ///
    /// # Errors
    ///
    /// Returns [`TokenError::Type`], [`TokenError::Claim`], [`TokenError::Issuer`],
    /// [`TokenError::Audience`] or [`TokenError::Expired`].
    pub(super) fn check_userinfo(
        &self,
        members: &Object,
        issuer: &str,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        check_not_logout_token(members)?;
        if claims::text(members, "iss")?.is_some_and(|stated| stated != issuer) {
            return Err(TokenError::Issuer);
        }
        if members.contains_key("aud") && !claims::audiences(members)?.contains(&&*self.client_id) {
            return Err(TokenError::Audience);
        }
        let expires_at = self.dates.read(members, "exp")?;
        if expires_at.is_some_and(|date| self.dates.is_past(date, now)) {
            return Err(TokenError::Expired);
        }
        Ok(())
    }

    /// Checks that `iss` is a configured issuer. The function also checks that the token's tenant
    /// and the issuer of the signing key fit `iss`. Microsoft Entra publishes a template as the
    /// issuer of a key. The gateway inserts the token's tenant into the template, and the result
    /// must be equal to `iss`.
    fn check_issuer<'a>(
        &self,
        members: &'a Object,
        key_issuer: Option<&str>,
    ) -> Result<&'a str, TokenError> {
        let stated = claims::text(members, "iss")?.ok_or(TokenError::Claim("iss"))?;
        if !self.issuer.matches(stated) {
            return Err(TokenError::Issuer);
        }
        // If the provider has no tenants, `tid` is ignored, because `tid` is not a standard claim
        // and may have any meaning.
        let of_tenants = self.issuer.has_tenants() || key_issuer.is_some();
        let tenant = of_tenants.then(|| claims::text(members, "tid"));
        let tenant = tenant.transpose()?.flatten();
        let fits = |template: &str| {
            tenant.is_some_and(|tenant| issuer::fill_template(template, tenant) == stated)
        };
        let ours = self.issuer.as_str();
        if tenant.is_some() && !fits(ours) {
            return Err(TokenError::Tenant);
        }
        if key_issuer.is_some_and(|key| key != stated && key != ours && !fits(key)) {
            return Err(TokenError::KeyIssuer);
        }
        Ok(stated)
    }

    /// Checks that `aud` contains the gateway's client identifier, and that all other audiences are
    /// configured. If there are several audiences, `azp` must state that the provider issued the
    /// token to the gateway.
    fn check_audience(&self, members: &Object) -> Result<(), TokenError> {
        let audiences = self.trusted_audiences(members)?;
        match claims::text(members, "azp")? {
            Some(party) if party != self.client_id => Err(TokenError::AuthorizedParty),
            None if audiences.len() > 1 => Err(TokenError::Claim("azp")),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the audiences of a token. Checks that `aud` contains the gateway's client identifier,
    /// and that all other audiences are configured.
    fn trusted_audiences<'a>(&self, members: &'a Object) -> Result<Vec<&'a str>, TokenError> {
        let ours = &*self.client_id;
        let audiences = claims::audiences(members)?;
        if !audiences.contains(&ours) {
            return Err(TokenError::Audience);
        }
        let trusted = |audience: &&str| {
            *audience == ours || self.audiences.iter().any(|trusted| trusted == audience)
        };
        if !audiences.iter().all(trusted) {
            return Err(TokenError::UntrustedAudience);
        }
        Ok(audiences)
    }

    fn check_dates(&self, members: &Object, now: Timestamp) -> Result<(), TokenError> {
        self.dates.check(members, now)?;
        let issued_at = self.dates.read(members, "iat")?;
        let issued_at = issued_at.ok_or(TokenError::Claim("iat"))?;
        if self.dates.is_past(issued_at.plus(MAX_AGE), now) {
            return Err(TokenError::TooOld("iat"));
        }
        Ok(())
    }

    /// Checks the requested properties of the user's authentication. The gateway does not check the
    /// other properties, because some providers state wrong values. For example, one provider
    /// states 1970 as the authentication time of every user.
    fn check_authentication(
        &self,
        members: &Object,
        of: &LoginContext<'_>,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let max_age = self.max_age.into_iter().chain(of.max_age).min();
        if let Some(max_age) = max_age {
            let at = self.dates.read(members, "auth_time")?;
            let at = at.ok_or(TokenError::Claim("auth_time"))?;
            if self.dates.is_ahead(at, now) {
                return Err(TokenError::NotYetValid("auth_time"));
            }
            // The gateway compares `auth_time` with the start of the login. The ID token may arrive
            // much later than the start of the login, because the user may read the consent page
            // for a long time.
            if at.plus(max_age).plus(self.dates.leeway) < of.begun_at {
                return Err(TokenError::TooOld("auth_time"));
            }
        }
        if self.acr_values.is_empty() {
            return Ok(());
        }
        self.check_context(members)
    }

    fn check_context(&self, members: &Object) -> Result<(), TokenError> {
        let context = claims::text(members, "acr")?.ok_or(TokenError::Claim("acr"))?;
        let listed = self.acr_values.iter().any(|value| value == context);
        listed
            .then_some(())
            .ok_or(TokenError::AuthenticationContext)
    }
}

/// Refuses a logout token, because a logout token can have all the claims of an ID token. A logout
/// token must have `events`, and an ID token never has `events` (OpenID Connect Back-Channel Logout
/// 1.0 section 2.4).
fn check_not_logout_token(members: &Object) -> Result<(), TokenError> {
    let logout = members.contains_key("events");
    (!logout).then_some(()).ok_or(TokenError::Type)
}

/// Checks the hash in the claim with the name `name`, if the token contains this claim. The claim
/// must be the left half of the hash of `value`. The signature algorithm of the token determines
/// the hash function (OpenID Connect Core 1.0 sections 3.1.3.8 and 3.3.2.11). For Ed25519 the hash
/// function is SHA-512.
fn check_hash(
    verified: &VerifiedToken,
    name: &'static str,
    value: &Secret<String>,
) -> Result<(), TokenError> {
    let Some(stated) = claims::text(&verified.members, name)? else {
        return Ok(());
    };
    let function = match verified.algorithm {
        Algorithm::ES256 | Algorithm::PS256 | Algorithm::RS256 => &SHA256,
        Algorithm::ES384 | Algorithm::PS384 | Algorithm::RS384 => &SHA384,
        Algorithm::EdDSA | Algorithm::PS512 | Algorithm::RS512 => &SHA512,
    };
    let hash = digest::digest(function, value.expose().as_bytes());
    let left = hash.as_ref().get(..function.output_len() / 2);
    if stated != URL_SAFE_NO_PAD.encode(left.unwrap_or_default()) {
        return Err(TokenError::Hash(name));
    }
    Ok(())
}
