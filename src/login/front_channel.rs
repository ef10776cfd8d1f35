//! Front-channel logout (OpenID Connect Front-Channel Logout 1.0): a page of the provider loads an
//! endpoint of the gateway in a frame, in the browser of the user.

use std::sync::Arc;

use url::form_urlencoded;

use super::{Error, Login};
use crate::session::{EndReason, EndedAll, Session, SessionsOf};

/// The session at the provider that has ended, as the query of the request names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FrontChannelLogout {
    issuer: String,
    sid: String,
}

impl FrontChannelLogout {
    /// Reads the query. Returns `None` if `iss` or `sid` is missing, repeated or empty. The provider
    /// sends both parameters if the client has set `frontchannel_logout_session_required`.
    pub(crate) fn parse(query: &str) -> Option<Self> {
        let only = |wanted: &str| {
            let pairs = form_urlencoded::parse(query.as_bytes());
            let mut values = pairs.filter(|(name, _)| name == wanted);
            let (_, value) = values.next()?;
            let is_alone = values.next().is_none() && !value.is_empty();
            is_alone.then(|| value.into_owned())
        };
        Some(Self {
            issuer: only("iss")?,
            sid: only("sid")?,
        })
    }

    /// Returns true if the session began with the session at the provider that has ended.
    fn names(&self, session: &Session) -> bool {
        *session.identity().issuer == *self.issuer && session.sid() == Some(&*self.sid)
    }
}

impl Login {
    /// Ends the sessions that belong to a session at the provider. `session` is the session of the
    /// browser. If the logout names another session, the function ends no session. Returns true if
    /// the session of the browser has ended.
    ///
    /// # Errors
    ///
    /// After [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`], the user may still be
    /// signed in.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the logout continues.
    pub(crate) async fn front_channel_logout(
        self: &Arc<Self>,
        logout: FrontChannelLogout,
        session: &Session,
    ) -> Result<bool, Error> {
        // Any page can load the endpoint, so the request must know the `sid` of the session.
        if !logout.names(session) {
            return Ok(false);
        }
        let login = Arc::clone(self);
        let end = async move {
            let FrontChannelLogout { issuer, sid } = &logout;
            let of = SessionsOf::ProviderSession {
                issuer,
                sid,
                subject: None,
            };
            let (sessions, now) = (&login.process.sessions, login.process.clock.now());
            let why = EndReason::SignedOutAtProvider;
            Ok(sessions.end_all(of, why, (None, now)).await?)
        };
        let ended = self.process.on_control_plane(end).await?;
        Ok(matches!(ended, EndedAll::Ended(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_20_both_parameters_are_required_one_time() {
        assert!(FrontChannelLogout::parse("iss=https://op&sid=1&x=y").is_some());
        for query in [
            "",
            "iss=https://op",
            "sid=1",
            "iss=https://op&sid=",
            "iss=https://op&sid=1&sid=1",
            "iss=https://op&iss=https://op&sid=1",
        ] {
            assert_eq!(FrontChannelLogout::parse(query), None, "{query}");
        }
    }
}
