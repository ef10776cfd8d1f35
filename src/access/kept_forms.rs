//! The routes that keep forms which arrive after the session has ended.

use super::{Access, Route};

impl Access {
    /// Whether at least one route keeps forms.
    pub(crate) fn keeps_forms(&self) -> bool {
        self.keeps_forms
    }

    /// Whether the route for this authority and this path keeps forms.
    pub(crate) fn keeps_forms_at(&self, authority: &str, path: &str) -> bool {
        let route = self.routes.serving(authority, path);
        route.is_some_and(|route| Route::keeps_forms(route))
    }
}
