//! The sign-out: ends the sessions of a browser.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::{Error, Login, browser};
use crate::fields::cookie as cookies;
use crate::session::{EndReason, Ended, SessionId, cookie};

/// The maximum number of sessions that one request signs out. In most cases, a browser sends one
/// session cookie. If a browser has stored session cookies for different paths, it can send several
/// session cookies in one request. `MAX_SIGNED_OUT` protects the store from a request with hundreds
/// of session cookies.
pub(super) const MAX_SIGNED_OUT: usize = 8;

impl Login {
    /// Ends the sessions whose cookies the browser sent, but at most [`MAX_SIGNED_OUT`] sessions.
    /// Returns the `Set-Cookie` values that delete the session cookie and the counter of logins in
    /// a row.
    ///
    /// # Errors
    ///
    /// After [`Error::NotStored`], [`Error::Stopped`] or [`Error::Panicked`], the user may still be
    /// signed in.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sign-out continues.
    pub(crate) async fn sign_out(&self, headers: &HeaderMap) -> Result<[HeaderValue; 2], Error> {
        let named = cookies::matching(headers, |name| name == cookie::SESSION.as_bytes());
        let ids = named.filter_map(|(_, value)| SessionId::parse(value));
        let keys: Vec<_> = ids.map(|id| id.key()).take(MAX_SIGNED_OUT).collect();
        let sessions = Arc::clone(&self.process.sessions);
        let end = async move {
            for key in keys {
                if sessions.end(&key, EndReason::SignedOut).await? == Ended::Session {
                    tracing::info!(session.key = key.log_prefix(), "Signed out");
                }
            }
            Ok(())
        };
        // The cookies are deleted only after the store has committed the end of the sessions. If
        // the cookies were deleted first and the store then failed, the session would continue, but
        // the user would have no cookie.
        self.process.on_control_plane(end).await?;
        Ok([cookie::clear(cookie::SESSION), browser::forget_rounds()])
    }
}
