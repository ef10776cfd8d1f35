//! How long a browser keeps the session cookie.

use std::time::Duration;

use serde::Deserialize;

use super::Login;

/// States whether a browser keeps the session cookie after the user has closed the browser.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RememberMe {
    /// The browser keeps the cookie as long as the session can last.
    Always,
    /// The browser keeps the cookie if the user has asked for this.
    Ask,
    /// The browser deletes the cookie when the user closes the browser.
    Never,
}

impl Login {
    /// Returns true if users decide whether the browser keeps the session cookie.
    pub(crate) fn asks_to_remember(&self) -> bool {
        self.settings.remember_me == RememberMe::Ask
    }

    /// Returns the lifetime of a session cookie. `None` means that the browser deletes the cookie
    /// when the user closes the browser. `asked` states whether the user has asked for a longer
    /// lifetime.
    pub(super) fn cookie_lifetime(&self, asked: bool) -> Option<Duration> {
        let keeps = match self.settings.remember_me {
            RememberMe::Always => true,
            RememberMe::Ask => asked,
            RememberMe::Never => false,
        };
        keeps.then(|| self.process.sessions.cookie_lifetime())
    }
}
