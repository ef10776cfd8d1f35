//! The codes, refresh tokens and access tokens that the stand-in has issued.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};

use super::CANARY;
use super::server::{RefreshTokenReuse, State};
use super::token::base64url;

/// The parameters of an authorization request.
#[derive(Clone, Debug)]
pub(super) struct AuthorizedRequest {
    pub(super) user: String,
    pub(super) challenge: String,
    pub(super) redirect_uri: String,
    pub(super) nonce: Option<String>,
    /// `openid` is among the scopes.
    pub(super) openid: bool,
    /// The time of the sign-in, in seconds.
    pub(super) at: u64,
}

/// The data of a refresh token.
#[derive(Clone)]
struct Grant {
    asked: AuthorizedRequest,
    /// The number of the login to which the token belongs.
    family: usize,
    access_token: String,
    used: bool,
}

/// Everything that was issued.
#[derive(Default)]
pub(super) struct TokenState {
    pub(super) codes: BTreeMap<String, AuthorizedRequest>,
    grants: BTreeMap<String, Grant>,
    /// The valid access tokens, and whether each comes from an OpenID login.
    pub(super) alive: BTreeMap<String, bool>,
    /// The number of codes and refreshes.
    pub(super) issued: usize,
}

/// New tokens for a user.
pub(super) struct IssuedTokens {
    pub(super) asked: AuthorizedRequest,
    pub(super) access_token: String,
    pub(super) refresh_token: Option<String>,
}

impl TokenState {
    pub(super) fn code(&mut self, asked: AuthorizedRequest) -> String {
        self.issued += 1;
        let code = format!("code-{CANARY}-{:05}", self.issued);
        self.codes.insert(code.clone(), asked);
        code
    }

    /// Redeems a code, which is possible once.
    fn redeemed(
        &mut self,
        form: &BTreeMap<String, String>,
    ) -> Result<AuthorizedRequest, &'static str> {
        let get = |name| form.get(name).map(String::as_str).unwrap_or_default();
        let known = self.codes.remove(get("code"));
        let asked = known.ok_or("the code is unknown or was used")?;
        let challenge = base64url(digest(&SHA256, get("code_verifier").as_bytes()));
        if asked.challenge != challenge {
            return Err("the code_verifier is wrong");
        }
        if asked.redirect_uri != get("redirect_uri") {
            return Err("the redirect_uri is another");
        }
        Ok(asked)
    }

    /// Uses a refresh token. The reuse of a refresh token revokes its family, unless there is a
    /// grace period. The ID token from a refresh has no nonce (OpenID Connect Core 1.0 section
    /// 12.2).
    fn refreshed(&mut self, token: &str, reuse: RefreshTokenReuse) -> Result<Grant, &'static str> {
        let grant = self.grants.get_mut(token);
        let grant = grant.ok_or("the refresh token is unknown or was revoked")?;
        let mut before = grant.clone();
        grant.used = true;
        if before.used && reuse == RefreshTokenReuse::RevokeFamily {
            self.grants.retain(|_, grant| grant.family != before.family);
            return Err("the refresh token was used before");
        }
        self.alive.remove(&before.access_token);
        self.issued += 1;
        before.asked.nonce = None;
        Ok(before)
    }
}

impl State {
    /// Issues new tokens for the code or refresh token in a request.
    pub(super) fn issue(
        &mut self,
        form: &BTreeMap<String, String>,
    ) -> Result<IssuedTokens, &'static str> {
        let tokens = &mut self.tokens;
        let (asked, family) = if let Some(token) = form.get("refresh_token") {
            let grant = tokens.refreshed(token, self.behavior.reuse)?;
            (grant.asked, grant.family)
        } else {
            (tokens.redeemed(form)?, tokens.issued)
        };
        let number = tokens.issued;
        let access_token = format!("{}.{CANARY}.{number}", asked.user);
        tokens.alive.insert(access_token.clone(), asked.openid);
        let refreshable = !asked.openid || self.behavior.gives_refresh_tokens;
        let refresh_token = refreshable.then(|| format!("refresh-{CANARY}-{number:05}"));
        if let Some(token) = &refresh_token {
            let grant = Grant {
                asked: asked.clone(),
                family,
                access_token: access_token.clone(),
                used: false,
            };
            tokens.grants.insert(token.clone(), grant);
        }
        Ok(IssuedTokens {
            asked,
            access_token,
            refresh_token,
        })
    }
}
