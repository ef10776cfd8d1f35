//! Targets whose path has unusual forms that the settings allow.

use http::request::Parts;

use super::WorkerSite;
use crate::target::{Error, Forms, Reading, RecentHost, Target};

impl WorkerSite {
    /// Performs step 2 of the list in the crate documentation: makes the target canonical.
    ///
    /// # Errors
    ///
    /// The error of [`Target::from_request`]. A path with unusual forms is not an error if the
    /// routes allow these forms.
    #[inline]
    pub(super) fn target(&self, parts: &Parts, recent: &RecentHost) -> Result<Target, Error> {
        self.target_without_warning(parts, recent)
            .inspect_err(|_error| self.warn_about_unusual_path(parts))
    }

    /// Does the same as [`WorkerSite::target`], but logs no warning.
    ///
    /// # Errors
    ///
    /// The errors of [`WorkerSite::target`].
    #[inline]
    pub(super) fn target_without_warning(
        &self,
        parts: &Parts,
        recent: &RecentHost,
    ) -> Result<Target, Error> {
        match Target::on_connection(parts, recent) {
            Ok(target) => Ok(target),
            Err(error) => self.with_unusual_path(parts).ok_or(error),
        }
    }

    #[cold]
    fn with_unusual_path(&self, parts: &Parts) -> Option<Target> {
        let allowed = self.access.allowed_forms();
        let (target, readings) = Target::with_unusual_path(parts, allowed)?;
        let is_own = readings.iter().any(|reading| self.may_be_own(reading));
        let accepted = !is_own && self.access.accepts_unusual(&target, &readings);
        accepted.then_some(target)
    }

    /// Logs the setting that would permit a refused path, if there is such a setting.
    #[cold]
    fn warn_about_unusual_path(&self, parts: &Parts) {
        let Some((_, readings)) = Target::with_unusual_path(parts, Forms::ALL) else {
            return;
        };
        if !readings.iter().any(|reading| self.may_be_own(reading)) {
            self.warn_about_refusal(
                "routes.allow_in_path",
                "A path was refused, because its routes do not allow its unusual forms",
            );
        }
    }

    /// Returns true if the path may be read as a path of the gateway's own endpoints. No path with
    /// unusual forms belongs to an endpoint of the gateway, so the gateway refuses the path.
    fn may_be_own(&self, reading: &Reading) -> bool {
        self.login().redirection().is_own_path(reading.path()) || self.own().may_cover(reading)
    }
}
