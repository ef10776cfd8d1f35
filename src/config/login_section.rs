//! The section `login` of the settings.

use std::path::PathBuf;

use serde::Deserialize;

use super::check_paths;
use super::listening::Bounded;
use super::login_host::login_host;
use super::reach::check_reach;
use super::section::Reader;
use super::site_data::{SiteData, clear_site_data};
use crate::access::{Route, RouteTable};
use crate::identity::ListedClaim;
use crate::login::{
    self, CookieLimits, OwnPaths, PublicUrl, PublicUrls, RedirectionEndpoints, RememberMe,
};
use crate::target;

/// The section `login`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginSection {
    pub(super) own_prefix: OwnPaths,
    pub(super) callback_path: Option<target::Prefix>,
    pub(super) host: Option<PublicUrl>,
    pub(super) timeout_secs: Bounded<10, 3600>,
    pub(super) sign_out_by_get: bool,
    pub(super) clear_site_data: Vec<SiteData>,
    pub(super) userinfo_claims: Vec<ListedClaim>,
    pub(super) remember_me: RememberMe,
    pub(super) state_key_file: Option<PathBuf>,
    pub(super) state_key_env: Option<String>,
}

/// Returns the settings of the logins, and reports the problems that the public URLs, the login
/// settings and the routes have only together.
pub(super) fn login_settings(
    section: &LoginSection,
    (urls, routes, providers): (Option<&PublicUrls>, Option<&RouteTable>, &[String]),
    reader: &mut Reader<'_>,
) -> login::Settings {
    let host = login_host(section.host.as_ref(), urls, reader);
    let own = section.own_prefix.clone();
    let callback = match &section.callback_path {
        Some(path) => path.as_str().to_owned(),
        None => own.default_callback(),
    };
    if callback == "/" || callback.ends_with('/') || own.are_hidden_by(&callback) {
        let reason = format!("`{callback}` cannot be used; choose a path such as /auth/callback");
        reader.note("login.callback_path", reason);
    }
    let names = providers.iter().map(String::as_str);
    let login = login::Settings {
        redirection: RedirectionEndpoints::new(&callback, &own, names),
        own,
        timeout: section.timeout_secs.duration(),
        host,
        cookie_limits: urls.map(CookieLimits::new).unwrap_or_default(),
        sign_out_by_get: section.sign_out_by_get,
        clear_site_data: clear_site_data(&section.clear_site_data),
        userinfo_claims: section.userinfo_claims.clone(),
        silent_sign_in: routes.is_some_and(|routes| routes.iter().any(Route::signs_in_silently)),
        remember_me: section.remember_me,
    };
    if let (Some(urls), Some(routes)) = (urls, routes) {
        check_reach(urls, &login, routes, reader);
        check_paths(urls, &login, routes, reader);
    }
    login
}
