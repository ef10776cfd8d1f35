//! Browsers in which a user has signed in before.
//!
//! When somebody sends many invented codes from a network, codes of this network have to wait. The
//! gateway cannot distinguish the login of a new browser from an attack. A browser that was used
//! for an earlier login has a cookie. The cookie contains the sealed hash of the user who signed in
//! last. The codes of such a browser do not wait among the codes of their network, but among the
//! codes of the user. An attacker without an account has no such cookie, and an attacker with an
//! account delays only this account.
//!
//! The cookie gives no other rights. Browsers send the cookie only to the redirection endpoints.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::form_owner::FormOwner;
use super::pending::associated_data;
use super::{Callback, Login, PublicUrl};
use crate::clock::Timestamp;
use crate::fields::ClientNetworks;
use crate::fields::cookie::{self as cookies, Found};
use crate::identity::Identity;
use crate::provider::QueueClient;
use crate::session::cookie;

/// The name of the cookie. The prefix `__Host-` is not possible, because the cookie has a path. A
/// sibling domain can therefore set or hide a cookie with this name, but it cannot seal a value.
const NAME: &str = "__Secure-sidegate-known";

/// The time for which the gateway knows a browser after a login.
const LIFETIME: Duration = Duration::from_hours(30 * 24);

/// The longest value of the cookie, in bytes.
const MAX_VALUE: usize = 256;

impl Login {
    /// Returns the `Set-Cookie` value for a browser in which the user `identity` has signed in at
    /// `provider`. Returns `None` if the identity has no subject.
    pub(super) fn remember_user(
        &self,
        (provider, identity): (&str, &Identity),
        public_url: &PublicUrl,
    ) -> Option<HeaderValue> {
        let user = FormOwner::of(identity)?;
        let ends_at = self.process.clock.now().plus(LIFETIME);
        let plain = [&user.as_bytes()[..], &ends_at.as_millis().to_be_bytes()].concat();
        let context = self.context(provider, public_url)?;
        let sealed = self.keys.seal(&context, &plain).ok()?;
        let (path, value) = (self.redirection().path(), URL_SAFE_NO_PAD.encode(sealed));
        Some(cookie::set_at(path, (NAME, &value), LIFETIME))
    }

    /// Returns the client to which the code of `callback` belongs: the user who has signed in before
    /// with the same browser at the same provider, or the network.
    pub(super) fn queue_client(&self, callback: &Callback<'_>) -> QueueClient {
        let user = match cookies::find(callback.headers, NAME.as_bytes()) {
            Found::One(value) => self.known_user(value, callback),
            Found::Absent | Found::Conflicting => None,
        };
        let network = QueueClient::Network(ClientNetworks::default().of(callback.client));
        user.map_or(network, QueueClient::User)
    }

    fn known_user(&self, value: &[u8], callback: &Callback<'_>) -> Option<[u8; 32]> {
        if value.len() > MAX_VALUE {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
        let context = self.context(callback.provider, callback.public_url)?;
        let plain = self.keys.open(&context, &sealed)?;
        let (user, ends_at) = plain.split_first_chunk::<32>()?;
        let ends_at = u64::from_be_bytes(ends_at.try_into().ok()?);
        let is_valid = self.process.clock.now() < Timestamp::from_millis(ends_at);
        is_valid.then_some(*user)
    }

    /// The cookie is valid only for one origin and one registration at a provider.
    fn context(&self, provider: &str, public_url: &PublicUrl) -> Option<Vec<u8>> {
        let registration = self.providers.get(provider)?.fingerprint();
        let fields = [public_url.origin().as_bytes(), &registration];
        Some(associated_data(b"known user", &fields))
    }
}
