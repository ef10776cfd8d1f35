//! The cookie of a sign-out, and what the browser does after the sign-out.
//!
//! The cookie is encrypted. It contains the values of the ended session with which the provider ends
//! its own session.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::hosts::parameter;
use super::sign_out::context;
use super::{Login, OwnPaths, PublicUrl, ReturnTo};
use crate::clock::Timestamp;
use crate::provider::Provider;
use crate::secret::Secret;
use crate::session::{Session, cookie};

/// The cookie with the data of a sign-out.
pub(super) const END_SESSION: &str = "__Host-sidegate-end";

/// The time in which the browser has to open the endpoint that redirects to the provider.
pub(super) const END_SESSION_LIFETIME: Duration = Duration::from_mins(2);

/// The longest value of the cookie [`END_SESSION`]. Browsers refuse a longer cookie. An ID token that
/// does not fit is left out. The provider then asks the user for a confirmation.
const MAX_COOKIE: usize = 4000;

/// The longest return path of a sign-out, in bytes. The `state` parameter contains the return path,
/// together with the ID token in one URL.
const MAX_RETURN_TO: usize = 512;

/// What the browser does after a sign-out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct AfterSignOut {
    /// The page that the browser opens. `None` means the page about the sign-out.
    pub(crate) return_to: Option<ReturnTo>,
    /// Whether the user wants to sign in with another account.
    pub(crate) another_account: bool,
}

/// The data in the cookie [`END_SESSION`].
pub(super) struct SignOutData {
    /// The ended session. `None` if no session has ended.
    pub(super) ended: Option<EndedSession>,
    pub(super) after: AfterSignOut,
}

/// The values of an ended session with which its provider ends its own session.
pub(super) struct EndedSession {
    /// The configured name of the provider.
    pub(super) provider: String,
    pub(super) logout_hint: Option<String>,
    pub(super) id_token: Option<Secret<String>>,
}

/// The serialized form of [`SignOutData`]. The names of the fields are short, because the space in a
/// cookie is limited.
#[derive(Deserialize, Serialize)]
struct RawData<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    h: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    t: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<Cow<'a, str>>,
    a: bool,
}

impl AfterSignOut {
    /// Reads the query of a request to the sign-out endpoint. A return address that is not a page of
    /// this host counts as absent.
    pub(crate) fn read(query: &str, public_url: &PublicUrl, own: &OwnPaths) -> Self {
        let mut addresses = ["return_to", "rd"]
            .iter()
            .map(|name| parameter(query, name));
        let return_to = addresses.find_map(|text| ReturnTo::in_link(&text, public_url, own));
        Self::returning(return_to, parameter(query, "another_account") == "1")
    }

    /// Describes a sign-out after which the user signs in with another account and returns to
    /// `return_to`.
    pub(crate) fn another_account(return_to: Option<ReturnTo>) -> Self {
        Self::returning(return_to, true)
    }

    fn returning(return_to: Option<ReturnTo>, another_account: bool) -> Self {
        Self {
            return_to: return_to.filter(|page| page.as_str().len() <= MAX_RETURN_TO),
            another_account,
        }
    }

    /// Returns the path and the query of the sign-out endpoint for this sign-out.
    pub(crate) fn link(&self, own: &OwnPaths) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if self.another_account {
            query.append_pair("another_account", "1");
        }
        if let Some(page) = &self.return_to {
            query.append_pair("return_to", page.as_str());
        }
        let query = query.finish();
        if query.is_empty() {
            own.sign_out().to_owned()
        } else {
            format!("{}?{query}", own.sign_out())
        }
    }

    /// Returns the URL that the browser opens after the last step of the sign-out at `public_url`.
    pub(crate) fn location(&self, public_url: &PublicUrl, own: &OwnPaths) -> String {
        match &self.return_to {
            Some(page) => page.absolute(public_url.origin()),
            None => [public_url.origin(), own.signed_out()].concat(),
        }
    }
}

impl EndedSession {
    pub(super) fn of(session: &Session, provider: Option<&Provider>) -> Self {
        let id_token = session.tokens().id_token();
        Self {
            provider: session.provider().to_owned(),
            logout_hint: provider.and_then(|provider| provider.logout_hint(id_token)),
            id_token: id_token.cloned(),
        }
    }
}

impl SignOutData {
    /// Serializes the data. The ID token is left out if `with_id_token` is false.
    fn to_text(&self, with_id_token: bool) -> Secret<String> {
        let ended = self.ended.as_ref();
        let id_token = ended.and_then(|ended| ended.id_token.as_ref());
        let id_token = id_token.filter(|_| with_id_token);
        let raw = RawData {
            p: ended.map(|ended| Cow::from(&ended.provider)),
            h: ended.and_then(|ended| ended.logout_hint.as_deref().map(Cow::from)),
            t: id_token.map(|token| Cow::from(token.expose())),
            r: self
                .after
                .return_to
                .as_ref()
                .map(|page| page.as_str().into()),
            a: self.after.another_account,
        };
        // Serialization does not fail, because all fields are texts and a truth value.
        Secret::new(serde_json::to_string(&raw).unwrap_or_default())
    }

    fn from_text(text: &str, own: &OwnPaths) -> Option<Self> {
        let raw: RawData<'_> = serde_json::from_str(text).ok()?;
        let ended = raw.p.map(|provider| EndedSession {
            provider: provider.into_owned(),
            logout_hint: raw.h.map(Cow::into_owned),
            id_token: raw.t.map(|token| Secret::new(token.into_owned())),
        });
        Some(Self {
            ended,
            after: AfterSignOut {
                return_to: raw.r.and_then(|page| ReturnTo::from_sealed(&page, own)),
                another_account: raw.a,
            },
        })
    }
}

impl Login {
    /// Returns the `Set-Cookie` value with the data of a sign-out at `public_url`.
    pub(super) fn sign_out_cookie(
        &self,
        data: &SignOutData,
        public_url: &PublicUrl,
    ) -> Option<HeaderValue> {
        let sealed = |with_id_token| {
            let text = data.to_text(with_id_token);
            self.seal_now(&context(b"end_session", public_url), text.expose())
        };
        let whole = sealed(true).filter(|value| value.len() <= MAX_COOKIE);
        let value = whole.or_else(|| sealed(false))?;
        Some(cookie::set(END_SESSION, &value, END_SESSION_LIFETIME))
    }

    /// Reads the value of the cookie [`END_SESSION`]. Returns the time of the sign-out, and the data
    /// of the sign-out. Returns `None` if the user has not signed out recently.
    pub(super) fn read_sign_out(
        &self,
        cookie: &[u8],
        public_url: &PublicUrl,
    ) -> Option<(Timestamp, SignOutData)> {
        let context = context(b"end_session", public_url);
        let (signed_out_at, text) = self.unseal_recent(&context, cookie, END_SESSION_LIFETIME)?;
        let data = SignOutData::from_text(text.expose(), self.own())?;
        Some((signed_out_at, data))
    }
}
