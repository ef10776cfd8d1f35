//! Finds out which session the session cookie of a request names.
//!
//! Without the setting `login.host`, each host has its own sessions, and the session cookie
//! contains a [`SessionId`]. With the setting `login.host`, all hosts share the sessions of the
//! login host. At the login host, the session cookie contains a [`SessionId`]. At any other host,
//! the session cookie contains a host id: the session key, encrypted for this host.
//!
//! The store contains no host ids. Every host id names the one session in the store, so the end of
//! the session ends all ids of the session at once. A refresh changes the session for all ids, too.
//! The host is associated data of the encryption, so a stolen host id is not valid at another host.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{SessionId, SessionKey, StoreTag};
use crate::seal::KeyRing;
use crate::secret::{NoRandomness, Secret};

const TAG: usize = 4;
const LENGTH: usize = TAG + SessionKey::LENGTH;

/// The longest value of a session cookie that the gateway tries to decrypt, in bytes. A host id has
/// 70 bytes.
const MAX_TEXT: usize = 128;

/// Names a session: its key, and the tag of its store. A `SessionRef` is not a secret, because a
/// client cannot use a session without an id of the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionRef {
    pub(super) store_tag: StoreTag,
    pub(super) key: SessionKey,
}

impl SessionRef {
    /// Returns the key under which the session is stored.
    pub(crate) fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns the store tag and the session key as bytes.
    pub(crate) fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let (tag, key) = bytes.split_at_mut(TAG);
        tag.copy_from_slice(self.store_tag.as_bytes());
        key.copy_from_slice(self.key.as_bytes());
        bytes
    }

    /// Reads the bytes that [`SessionRef::to_bytes`] returned.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, key) = bytes.split_first_chunk::<TAG>()?;
        Some(Self {
            store_tag: StoreTag::from_bytes(*tag),
            key: SessionKey::from_bytes(key.try_into().ok()?),
        })
    }

    /// Returns the session that a session cookie names, for the end of the session. The function
    /// accepts session ids and host ids at each host, because a reload can set or remove
    /// `login.host`, and a user must be able to end a session that began before the reload.
    pub(crate) fn to_end(cookie: &[u8], authority: &str, keys: &KeyRing) -> Option<Self> {
        match SessionId::parse(cookie) {
            Some(id) => Some(Self::from(&id)),
            None => open(cookie, authority, keys),
        }
    }

    /// Creates the host id of this session for the host `authority`.
    ///
    /// # Errors
    ///
    /// Returns [`NoRandomness`] if the operating system returns no random bytes.
    pub(crate) fn host_id(
        self,
        authority: &str,
        keys: &KeyRing,
    ) -> Result<Secret<String>, NoRandomness> {
        let sealed = keys.seal(&context(authority), &self.to_bytes())?;
        Ok(Secret::new(URL_SAFE_NO_PAD.encode(sealed)))
    }
}

impl From<&SessionId> for SessionRef {
    fn from(id: &SessionId) -> Self {
        Self {
            store_tag: id.store_tag(),
            key: id.key(),
        }
    }
}

/// Reads session cookies. The default reads the cookies of hosts that do not share sessions.
#[derive(Debug, Default)]
pub(crate) struct SessionIds(Option<SharedSessions>);

/// The login host, whose sessions all hosts share.
#[derive(Debug)]
struct SharedSessions {
    login_authority: Box<str>,
    keys: Arc<KeyRing>,
}

impl SessionIds {
    /// Creates the reader for hosts that share the sessions of the login host `login_authority`.
    pub(crate) fn shared(login_authority: &str, keys: Arc<KeyRing>) -> Self {
        Self(Some(SharedSessions {
            login_authority: login_authority.into(),
            keys,
        }))
    }

    /// Returns the session that the session cookie of a request names. `authority` is the host of
    /// the request.
    pub(crate) fn read(&self, cookie: &[u8], authority: &str) -> Option<SessionRef> {
        match &self.0 {
            Some(shared) if *shared.login_authority != *authority => {
                open(cookie, authority, &shared.keys)
            }
            Some(_) | None => SessionId::parse(cookie).as_ref().map(SessionRef::from),
        }
    }

    /// Returns true if all hosts share the sessions of the login host. The value of a session cookie
    /// is then valid only at one host.
    pub(crate) fn are_shared(&self) -> bool {
        self.0.is_some()
    }
}

/// Decrypts a host id. Returns `None` if `text` is not a host id for the host `authority`.
fn open(text: &[u8], authority: &str, keys: &KeyRing) -> Option<SessionRef> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
    SessionRef::from_bytes(&keys.open(&context(authority), &sealed)?)
}

/// Returns the associated data of a host id. All other data that is encrypted with the keys of
/// pending logins has associated data that begins with a zero byte.
fn context(authority: &str) -> Vec<u8> {
    [b"host id ", authority.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: &str = "login.test";

    fn ids() -> (SessionIds, Arc<KeyRing>) {
        let keys = Arc::new(KeyRing::random().unwrap());
        (SessionIds::shared(LOGIN, Arc::clone(&keys)), keys)
    }

    fn id() -> SessionId {
        SessionId::random(StoreTag::random().unwrap()).unwrap()
    }

    fn text(secret: &Secret<String>) -> &[u8] {
        secret.expose().as_bytes()
    }

    #[test]
    fn a_48_a_host_id_names_its_session_at_its_own_host_only() {
        let ((ids, keys), id) = (ids(), id());
        let session = SessionRef::from(&id);
        let host_id = session.host_id("app.test", &keys).unwrap();
        assert_eq!(text(&host_id).len(), 70);
        assert_eq!(ids.read(text(&host_id), "app.test"), Some(session));
        for other in ["other.test", "app.test:8443", "xapp.test", LOGIN, ""] {
            assert_eq!(ids.read(text(&host_id), other), None, "{other}");
        }
        let own = id.to_text();
        assert_eq!(ids.read(text(&own), LOGIN), Some(session));
        assert_eq!(ids.read(text(&own), "app.test"), None);
        let separate = SessionIds::default();
        assert_eq!(separate.read(text(&own), "app.test"), Some(session));
        assert_eq!(separate.read(text(&host_id), "app.test"), None);
        let to_end = |cookie, host| SessionRef::to_end(text(cookie), host, &keys);
        assert_eq!(to_end(&own, "app.test"), Some(session));
        assert_eq!(to_end(&host_id, "app.test"), Some(session));
        assert_eq!(to_end(&host_id, "other.test"), None);
    }

    #[test]
    fn c_06_a_changed_or_cut_host_id_names_no_session() {
        let ((ids, keys), id) = (ids(), id());
        let host_id = SessionRef::from(&id).host_id("app.test", &keys).unwrap();
        let host_id = text(&host_id);
        for position in 0..host_id.len() {
            let mut changed = host_id.to_vec();
            changed[position] = if changed[position] == b'A' {
                b'B'
            } else {
                b'A'
            };
            assert_eq!(ids.read(&changed, "app.test"), None, "{position}");
            assert_eq!(ids.read(&host_id[..position], "app.test"), None);
        }
        let other_keys = SessionIds::shared(LOGIN, Arc::new(KeyRing::random().unwrap()));
        assert_eq!(other_keys.read(host_id, "app.test"), None);
        assert_eq!(
            ids.read(&[host_id, b"=".as_slice()].concat(), "app.test"),
            None
        );
        assert_eq!(ids.read(&[b'A'; MAX_TEXT + 1], "app.test"), None);
    }

    #[test]
    fn c_11_two_host_ids_of_a_session_differ_and_do_not_print() {
        let ((_, keys), id) = (ids(), id());
        let session = SessionRef::from(&id);
        let [one, other] = [(); 2].map(|()| session.host_id("app.test", &keys).unwrap());
        assert_ne!(one.expose(), other.expose());
        assert!(!format!("{one:?}").contains(one.expose().as_str()));
    }
}
