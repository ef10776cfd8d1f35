//! Tests one complete login through a gateway over real sockets, like a browser, and names the
//! first step that fails. The check uses the gateway only over HTTP.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use super::steps::Steps;
use crate::clock::Clock;
use crate::secret::Secret;

/// The servers to test, and the expected results.
#[derive(Clone, Debug)]
pub struct Check<E> {
    /// The address at which the gateway accepts plain HTTP.
    pub gateway: SocketAddr,
    /// The public origin of the gateway. No name server has to know the host name of the public
    /// origin.
    pub public_url: Url,
    /// The address of the authorization server.
    pub provider: SocketAddr,
    /// The authorization endpoint to which the gateway must redirect the browser.
    pub authorization_endpoint: Url,
    /// A function that returns the number of requests that the token endpoint has received.
    pub calls: E,
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Secret<String>,
    /// The subject that the app must receive.
    pub subject: String,
    /// Additional fields that the app must receive, each with its name in lower case and its value.
    pub fields: Vec<(&'static str, String)>,
    /// The lifetime of access tokens.
    pub token_lifetime: Duration,
    /// The clock of the gateway, the authorization server and the app. The clock must be a manual
    /// clock, because the check advances the clock to the expiry of a token.
    pub clock: Clock,
}

/// The number of requests to a token endpoint, including failed requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TokenCalls {
    /// The code exchanges.
    pub exchanges: u64,
    /// The refreshes.
    pub refreshes: u64,
}

/// A step that [`Check`] performs. The steps are in the order of execution.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// A navigation without a session is redirected to the authorization endpoint.
    Redirect,
    /// The authorization server shows a login form.
    LoginForm,
    /// With the right password, the browser returns to the gateway with a code and the state.
    Code,
    /// The gateway exchanges the code exactly one time and redirects to the requested page.
    Exchange,
    /// The session cookie has all attributes that protect it.
    SessionCookie,
    /// The app receives a valid token and the signed-in user, but no forged fields from the client.
    Bearer,
    /// The next requests use the session, and the gateway exchanges no second code.
    Cache,
    /// The gateway refreshes an expired token exactly one time, and the app receives the new token.
    Refresh,
    /// A form post reaches the app.
    Post,
    /// A script without a session gets 401 with the URL for the sign-in.
    Api,
    /// The sign-out deletes the session cookie.
    SignOut,
    /// After the sign-out, the old cookie is no longer accepted.
    CookieDead,
    /// A sign-out in another tab ends the streams of a page. Until the next sign-in, a request for
    /// a new stream gets 401.
    Streams,
    /// A sign-out at the provider ends the session at the gateway.
    Logout,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 14] = [
        Self::Redirect,
        Self::LoginForm,
        Self::Code,
        Self::Exchange,
        Self::SessionCookie,
        Self::Bearer,
        Self::Cache,
        Self::Refresh,
        Self::Post,
        Self::Api,
        Self::SignOut,
        Self::CookieDead,
        Self::Streams,
        Self::Logout,
    ];

    /// Returns the stable name, for the command line and for error messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::LoginForm => "login-form",
            Self::Code => "code",
            Self::Exchange => "exchange",
            Self::SessionCookie => "session-cookie",
            Self::Bearer => "bearer",
            Self::Cache => "cache",
            Self::Refresh => "refresh",
            Self::Post => "post",
            Self::Api => "api",
            Self::SignOut => "sign-out",
            Self::CookieDead => "cookie-dead",
            Self::Streams => "streams",
            Self::Logout => "logout",
        }
    }

    /// Returns the title of the step for reports. The title states what the step proves if it
    /// passes.
    const fn title(self) -> &'static str {
        match self {
            Self::Redirect => "redirect to the provider",
            Self::LoginForm => "login form of the provider",
            Self::Code => "code for user and password",
            Self::Exchange => "code exchanged, once",
            Self::SessionCookie => "session cookie is protected",
            Self::Bearer => "token verified by the app",
            Self::Cache => "next requests use the session",
            Self::Refresh => "expired token refreshed, once",
            Self::Post => "form post reaches the app",
            Self::Api => "script gets 401 and login_url",
            Self::SignOut => "sign-out clears the cookie",
            Self::CookieDead => "old cookie is refused",
            Self::Streams => "streams end with the session",
            Self::Logout => "logout at the provider",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failed step.
///
/// The cause of the failure is in the part of the system that `step` checks. The error message
/// contains no token, code or cookie.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{step}: expected {expected}, got {got}")]
pub struct FailedStep {
    /// The failed step.
    pub step: Step,
    /// The expected result.
    pub expected: String,
    /// The actual result.
    pub got: String,
}

/// The report about one step. The `Display` output of a report is one line.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The reported step.
    pub step: Step,
    /// The duration of the step.
    pub took: Duration,
    /// The result of the step.
    pub outcome: Result<(), FailedStep>,
}

impl fmt::Display for StepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(()) => {
                let millis = self.took.as_secs_f64() * 1000.0;
                write!(f, "ok   {:<30} {millis:>8.1} ms", self.step.title())
            }
            Err(failed) => write!(f, "FAIL {failed}"),
        }
    }
}

impl<E: Fn() -> TokenCalls> Check<E> {
    /// Runs the steps in order and stops after the first failed step. Calls `report` after each
    /// step.
    ///
    /// # Errors
    ///
    /// Returns [`FailedStep`] with the expected and the actual result.
    ///
    /// # Cancel safety
    ///
    /// If the caller drops the future, a session can remain open at the gateway.
    pub async fn run(&self, report: &mut impl FnMut(StepReport)) -> Result<(), FailedStep> {
        let mut steps = Steps::new(self);
        for step in Step::ALL {
            let started = self.clock.instant();
            let result = steps.run(step).await;
            let outcome = result.map_err(|mismatch| FailedStep {
                step,
                expected: mismatch.expected,
                got: mismatch.got,
            });
            report(StepReport {
                step,
                took: self.clock.instant().saturating_duration_since(started),
                outcome: outcome.clone(),
            });
            outcome?;
        }
        Ok(())
    }
}
