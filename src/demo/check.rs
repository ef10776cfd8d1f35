//! Drives one whole login through a gateway over real sockets, as a browser would, and names the
//! first step that does not hold. It knows nothing of how the gateway is built.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use super::steps::Steps;
use crate::clock::Clock;
use crate::secret::Secret;

/// What to drive, and what should come of it.
#[derive(Clone, Debug)]
pub struct Check<E> {
    /// Where the gateway listens, for plain HTTP.
    pub gateway: SocketAddr,
    /// The origin that the gateway is known by; its host need not resolve.
    pub public_url: Url,
    /// Where the authorization server listens.
    pub provider: SocketAddr,
    /// The authorization endpoint, as the gateway should redirect to it.
    pub authorization_endpoint: Url,
    /// Counts the calls of its token endpoint that the authorization server has seen.
    pub calls: E,
    /// Who signs in.
    pub user: String,
    /// With which password.
    pub password: Secret<String>,
    /// The subject that the app should see.
    pub subject: String,
    /// Further fields that the app should see: name in lower case, value.
    pub fields: Vec<(&'static str, String)>,
    /// How long access tokens live.
    pub token_lifetime: Duration,
    /// The time, and the measure of each step. It is turned to the end of a token, so it has to be
    /// one that can be, and gateway, authorization server and app have to look at it, too.
    pub clock: Clock,
}

/// Calls of a token endpoint, whatever became of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TokenCalls {
    /// Code exchanges.
    pub exchanges: u64,
    /// Refreshes.
    pub refreshes: u64,
}

/// One step, in the order in which they are taken.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// A navigation without a session is redirected to the authorization endpoint.
    Redirect,
    /// The authorization server shows a login form.
    LoginForm,
    /// The right password brings a code and the state back to the gateway.
    Code,
    /// The gateway exchanges the code, once, and redirects to the page asked for.
    Exchange,
    /// The session cookie has every attribute that protects it.
    SessionCookie,
    /// The app receives a token with a good signature and who signed in, and nothing that the
    /// client made up.
    Bearer,
    /// Further requests are answered from the session, without another exchange.
    Cache,
    /// A token that has expired is refreshed, once, and the app receives the new one.
    Refresh,
    /// A form post arrives at the app.
    Post,
    /// A script without a session is told where to sign in.
    Api,
    /// Signing out clears the cookie.
    SignOut,
    /// The old cookie opens nothing any more.
    CookieDead,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 12] = [
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
    ];

    /// The stable name, for programs and for failures.
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
        }
    }

    /// What holds when the step does, for people.
    const fn title(self) -> &'static str {
        match self {
            Self::Redirect => "redirect to the provider",
            Self::LoginForm => "login form of the provider",
            Self::Code => "code for user and password",
            Self::Exchange => "code exchanged, once",
            Self::SessionCookie => "session cookie is protected",
            Self::Bearer => "bearer verified by the app",
            Self::Cache => "next requests from the cache",
            Self::Refresh => "expired token refreshed, once",
            Self::Post => "form post reaches the app",
            Self::Api => "script gets 401 and login_url",
            Self::SignOut => "sign-out clears the cookie",
            Self::CookieDead => "old cookie is dead",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A step that does not hold.
///
/// Side: whatever stands at `step`; the text has no token, code or cookie in it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{step}: expected {expected}, got {got}")]
pub struct FailedStep {
    /// The step.
    pub step: Step,
    /// What was expected.
    pub expected: String,
    /// What got instead.
    pub got: String,
}

/// How a step went. Its `Display` is one line.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The step.
    pub step: Step,
    /// How long it took.
    pub took: Duration,
    /// Whether it result.
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
    /// Takes the steps in order, calling `report` after each, up to the first that fails.
    ///
    /// # Errors
    ///
    /// The step that failed, with what was expected and what got.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves at most an open session at the gateway behind.
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
