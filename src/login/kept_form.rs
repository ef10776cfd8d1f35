//! Forms that the browser keeps during a login.
//!
//! If a form arrives after the session has ended, the gateway seals the form, and a script of the
//! gateway stores the sealed form in the storage of the browser tab. The gateway stores nothing for
//! a user without a session. After the login, the browser sends the sealed form back. The gateway
//! opens the form only for the user to whom the form belongs ([`FormOwner`]), only at the host at
//! which the form arrived, only for a limited time, and only one time.
//!
//! The text of a sealed form consists of a name, a dot, and the sealed bytes in base64url. The name
//! is also the last segment of the endpoint that offers the form to the user.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::form_owner::FormOwner;
use super::pending::{Tab, associated_data};
use super::{Error, Login, PublicUrl, ReturnTo};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::secret::{self, NoRandomness};
use crate::session::{MarkKind, Once};

/// The largest content of a form that is kept, in bytes.
pub(crate) const LARGEST_FORM: u64 = 1024 * 1024;

/// The largest text of a sealed form, in bytes. Base64 adds one third to the content. The target,
/// the referrer and the content type of the form also belong to the text.
pub(crate) const LARGEST_SEALED: u64 = 1536 * 1024;

/// The longest referrer that is kept, in bytes.
const MAX_REFERRER: usize = 8192;

/// The time for which a form is kept. The time is also the longest timeout of a login.
pub(crate) const KEPT_FOR: Duration = Duration::from_hours(1);

/// A form that arrived after the session of its user had ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct KeptForm {
    /// Identifies the form. If the form is kept a second time, the id stays the same.
    id: [u8; 16],
    owner: FormOwner,
    /// The time at which the form arrived for the first time.
    pub(crate) kept_at: Timestamp,
    /// The canonical path and query to which the form was sent.
    pub(crate) target: Box<str>,
    /// The value of `Content-Type`.
    pub(crate) content_type: Box<str>,
    /// The value of `Referer`: the page from which the form was sent.
    pub(crate) referrer: Option<Box<str>>,
    /// The content of the form.
    pub(crate) body: Bytes,
}

/// The encoded form of a [`KeptForm`]. The content of the form follows.
#[derive(Deserialize, Serialize)]
struct Raw<'a> {
    id: [u8; 16],
    owner: [u8; 32],
    kept_at: u64,
    target: &'a str,
    content_type: &'a str,
    referrer: Option<&'a str>,
}

/// A form that a script saves in the storage of a browser tab.
#[derive(Debug)]
pub(crate) struct TabForm {
    /// The name of the kept form.
    pub(crate) name: Box<str>,
    /// The text of the sealed form.
    pub(crate) sealed: String,
    /// The return path for a pending login: the endpoint that offers the form.
    pub(crate) return_to: ReturnTo,
}

/// The reason why a kept form is refused. The client is responsible.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FormRefusal {
    /// The form is too old.
    Expired,
    /// The form belongs to another user.
    OtherUser,
    /// The gateway has not sealed the form for this host, or the form was changed.
    Unknown,
    /// The form was already sent or discarded.
    Used,
}

impl KeptForm {
    /// Creates the value of a form that has just arrived. `sent` contains the target and the values
    /// of `Content-Type` and `Referer`.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`].
    pub(crate) fn new(
        owner: FormOwner,
        (target, content_type, referrer): (&str, &str, Option<&str>),
        body: Bytes,
        now: Timestamp,
    ) -> Result<Self, NoRandomness> {
        let referrer = referrer.filter(|referrer| referrer.len() <= MAX_REFERRER);
        Ok(Self {
            id: secret::random()?,
            owner,
            kept_at: now,
            target: target.into(),
            content_type: content_type.into(),
            referrer: referrer.map(Into::into),
            body,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let raw = Raw {
            id: self.id,
            owner: *self.owner.as_bytes(),
            kept_at: self.kept_at.as_millis(),
            target: &self.target,
            content_type: &self.content_type,
            referrer: self.referrer.as_deref(),
        };
        // The encoding into a growing buffer never fails.
        let mut bytes = postcard::to_extend(&raw, Vec::new()).unwrap_or_default();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (raw, body): (Raw<'_>, _) = postcard::take_from_bytes(bytes).ok()?;
        Some(Self {
            id: raw.id,
            owner: FormOwner::from_bytes(raw.owner),
            kept_at: Timestamp::from_millis(raw.kept_at),
            target: raw.target.into(),
            content_type: raw.content_type.into(),
            referrer: raw.referrer.map(Into::into),
            body: Bytes::copy_from_slice(body),
        })
    }

    /// Checks whether the form may be opened for `owner` now.
    ///
    /// # Errors
    ///
    /// [`FormRefusal::OtherUser`] or [`FormRefusal::Expired`].
    fn check(self, owner: Option<FormOwner>, now: Timestamp) -> Result<Self, FormRefusal> {
        if owner != Some(self.owner) {
            return Err(FormRefusal::OtherUser);
        }
        if self.kept_at.plus(KEPT_FOR) <= now {
            return Err(FormRefusal::Expired);
        }
        Ok(self)
    }
}

impl Login {
    /// Seals a form for the storage of a browser tab at `public_url`.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`].
    pub(crate) fn seal_form(
        &self,
        form: &KeptForm,
        public_url: &PublicUrl,
    ) -> Result<TabForm, NoRandomness> {
        let tab = Tab::random(self.process.clock.now())?;
        let sealed = self.keys.seal(&context(&tab, public_url), &form.encode())?;
        let mut text = format!("{}.", tab.as_str());
        URL_SAFE_NO_PAD.encode_string(sealed, &mut text);
        Ok(TabForm {
            return_to: ReturnTo::saved(&self.own().kept_form(&tab)),
            name: tab.as_str().into(),
            sealed: text,
        })
    }

    /// Opens a sealed form of the user with this identity.
    ///
    /// # Errors
    ///
    /// [`FormRefusal`], except [`FormRefusal::Used`].
    pub(crate) fn open_form(
        &self,
        text: &[u8],
        public_url: &PublicUrl,
        identity: &Identity,
    ) -> Result<KeptForm, FormRefusal> {
        self.opened(text, public_url, FormOwner::of(identity))
    }

    /// Opens a sealed form that has arrived without a session, so that the form can be kept again.
    ///
    /// # Errors
    ///
    /// [`FormRefusal`], except [`FormRefusal::Used`].
    pub(crate) fn open_form_again(
        &self,
        text: &[u8],
        public_url: &PublicUrl,
        owner: FormOwner,
    ) -> Result<KeptForm, FormRefusal> {
        self.opened(text, public_url, Some(owner))
    }

    fn opened(
        &self,
        text: &[u8],
        public_url: &PublicUrl,
        owner: Option<FormOwner>,
    ) -> Result<KeptForm, FormRefusal> {
        let form = self.unsealed(text, public_url);
        let form = form.ok_or(FormRefusal::Unknown)?;
        form.check(owner, self.process.clock.now())
    }

    fn unsealed(&self, text: &[u8], public_url: &PublicUrl) -> Option<KeptForm> {
        let (tab, sealed) = std::str::from_utf8(text).ok()?.split_once('.')?;
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let context = context(&Tab::parse(tab)?, public_url);
        KeptForm::decode(&self.keys.open(&context, &sealed)?)
    }

    /// Marks a form as used, so that the form cannot be sent again.
    ///
    /// # Errors
    ///
    /// [`Error::NotStored`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the form may be marked as used.
    pub(crate) async fn use_up_form(&self, form: &KeptForm) -> Result<Once, Error> {
        let mut mark = [0; 32];
        mark.copy_from_slice(digest(&SHA256, &form.id).as_ref());
        let now = self.process.clock.now();
        // If the clock was set back, the form may come from the future.
        let until = now.max(form.kept_at).plus(KEPT_FOR);
        let sessions = &self.process.sessions;
        Ok(sessions.once((MarkKind::Form, mark), now, until).await?)
    }

    /// Returns the endpoint that offers the kept form with the name `name`. Returns `None` if no kept
    /// form can have this name.
    pub(crate) fn kept_form_page(&self, name: &str) -> Option<ReturnTo> {
        Some(ReturnTo::saved(&self.own().kept_form(&Tab::parse(name)?)))
    }
}

fn context(tab: &Tab, public_url: &PublicUrl) -> Vec<u8> {
    let fields = [tab.as_str().as_bytes(), public_url.origin().as_bytes()];
    associated_data(b"form", &fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Claim;

    fn owner(subject: &str) -> FormOwner {
        let identity = Identity {
            subject: Claim::new(subject),
            ..Identity::nameless("https://op")
        };
        FormOwner::of(&identity).unwrap()
    }

    fn form(body: &[u8]) -> KeptForm {
        let sent = ("/a?b", "text/plain", Some("https://gw.test/x"));
        let body = Bytes::copy_from_slice(body);
        KeptForm::new(owner("alice"), sent, body, Timestamp::from_millis(5)).unwrap()
    }

    #[test]
    fn a_form_survives_the_encoding_byte_for_byte() {
        let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        for body in [&b""[..], b"a=b", &bytes] {
            let form = form(body);
            let encoded = form.encode();
            assert_eq!(KeptForm::decode(&encoded), Some(form));
        }
        assert_eq!(KeptForm::decode(&form(b"").encode()[..60]), None);
    }

    #[test]
    fn k_01_only_its_owner_may_open_a_form() {
        let now = Timestamp::from_millis(6);
        let form = form(b"a=b");
        let open = |owner| form.clone().check(owner, now);
        assert_eq!(open(Some(owner("alice"))), Ok(form.clone()));
        assert_eq!(open(Some(owner("bob"))), Err(FormRefusal::OtherUser));
        assert_eq!(open(None), Err(FormRefusal::OtherUser));
    }

    #[test]
    fn k_12_a_form_is_kept_for_one_hour() {
        let form = form(b"a=b");
        let open = |now| form.clone().check(Some(owner("alice")), now).map(drop);
        let end = form.kept_at.plus(KEPT_FOR);
        assert_eq!(open(Timestamp::from_millis(end.as_millis() - 1)), Ok(()));
        assert_eq!(open(end), Err(FormRefusal::Expired));
        // The clock may have been set back.
        assert_eq!(open(Timestamp::from_millis(0)), Ok(()));
    }
}
