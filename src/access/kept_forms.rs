//! The routes that keep forms which arrive after the session has ended.

use super::{Access, Route};

impl Access {
    /// Whether at least one route keeps forms.
    pub(crate) fn keeps_forms(&self) -> bool {
        self.keeps_forms
    }

    /// Whether the route for this authority and this path keeps forms.
    pub(crate) fn keeps_forms_at(&self, authority: &str, path: &str) -> bool {
        let position = self.routes.position(authority, path);
        let route = position.and_then(|position| self.routes.get(position));
        route.is_some_and(|route| Route::keeps_forms(route))
    }
}
