//! Explanations of decisions, offline or by a running gateway.

use std::sync::Arc;

use tokio::sync::watch;

use super::process::ProcessState;
use super::{Control, Error, Instance};
use crate::admin::{AskedExplanation, Explained};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::{Explanation, Question, QuestionError, Site, explain_request};
use crate::session::StoreSettings;
use crate::telemetry::{Metrics, chain};

/// Explains what a gateway would do with a request.
#[derive(Debug)]
pub struct Explainer {
    site: watch::Receiver<Arc<Site>>,
    /// The control plane of an explainer without a running gateway.
    _control: Option<Control>,
}

impl Explainer {
    /// Creates an explainer from the settings, without a running gateway. The explainer opens no
    /// listener and no session file, and calls no provider.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn offline(config: Config, clock: &Clock) -> Result<Self, Error> {
        let (control, handle) = Control::start().map_err(Error::Control)?;
        let (mut settings, keys) = config.session;
        // A running gateway may use the store.
        settings.store = StoreSettings::Memory;
        let shared = (Arc::new(Metrics::default()), clock);
        let providers = &config.site.providers;
        let process = ProcessState::start((settings, keys), providers, shared, handle)?;
        let (_sites, site) = watch::channel(process.site(config.site));
        Ok(Self {
            site,
            _control: Some(control),
        })
    }

    /// Creates an explainer that always uses the current settings of the running gateway.
    pub(super) fn of_running(sites: &watch::Sender<Arc<Site>>) -> Self {
        Self {
            site: sites.subscribe(),
            _control: None,
        }
    }

    /// Explains what the gateway would do with the request for which a client of the admin socket
    /// asks. The error is the reason why there is no explanation.
    ///
    /// # Errors
    ///
    /// Returns the text of a [`QuestionError`].
    pub fn explain_asked(&self, asked: &AskedExplanation) -> Result<Explained, String> {
        let question = Question {
            method: &asked.method,
            url: &asked.url,
            claims: asked.claims.as_ref(),
            provider: asked.provider.as_deref(),
        };
        let explanation = self.explain(&question).map_err(|error| chain(&error))?;
        Ok(Explained {
            text: explanation.to_string(),
            data: serde_json::to_value(&explanation).map_err(|error| error.to_string())?,
            is_permitted: explanation.is_permitted(),
        })
    }

    /// Explains what the gateway would do with a request.
    ///
    /// # Errors
    ///
    /// [`QuestionError`].
    pub fn explain(&self, question: &Question<'_>) -> Result<Explanation, QuestionError> {
        let site = Arc::clone(&self.site.borrow());
        explain_request(&site, question)
    }
}

impl Instance {
    /// Creates an explainer that always uses the current settings of the running gateway.
    pub fn explainer(&self) -> Explainer {
        Explainer::of_running(&self.sites)
    }
}
