//! The paths of the gateway's own endpoints.

use serde::Deserialize;

use super::Login;
use super::pending::Tab;
use crate::target::{Prefix, Reading};

/// The paths of the gateway's own endpoints, which are all below one prefix. Only the redirection
/// endpoint may have a path that is not below the prefix.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(crate) struct OwnPaths {
    prefix: Prefix,
    sign_in: Box<str>,
    sign_out: Box<str>,
    signed_out: Box<str>,
    back_channel_logout: Box<str>,
    front_channel_logout: Box<str>,
    revoke: Box<str>,
    end_session: Box<str>,
    jwks: Box<str>,
    auth: Box<str>,
    ticket: Box<str>,
    ticket_request: Box<str>,
    userinfo: Box<str>,
    events: Box<str>,
    silent: Box<str>,
    start: Box<str>,
    sessions: Box<str>,
}

impl OwnPaths {
    /// Returns the prefix, which begins and ends with a slash.
    pub(crate) fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// Returns the path of the endpoint that starts a login. After the login, the user returns to
    /// the page that contains the sign-in link.
    pub(crate) fn sign_in(&self) -> &str {
        &self.sign_in
    }

    /// Returns the path of the sign-out endpoint. A POST request to the sign-out endpoint ends the
    /// session. A GET request to the sign-out endpoint shows a page that asks for a confirmation.
    pub(crate) fn sign_out(&self) -> &str {
        &self.sign_out
    }

    /// Returns the path of the page that tells the user that the session has ended.
    pub(crate) fn signed_out(&self) -> &str {
        &self.signed_out
    }

    /// Returns the path that redirects the browser to the end-session endpoint of the provider after
    /// a sign-out.
    pub(crate) fn end_session(&self) -> &str {
        &self.end_session
    }

    /// Returns the path of the endpoint to which providers send logout tokens (OpenID Connect
    /// Back-Channel Logout 1.0).
    pub(crate) fn back_channel_logout(&self) -> &str {
        &self.back_channel_logout
    }

    /// Returns the path of the endpoint that a page of the provider loads in a frame to end the
    /// session of the browser (OpenID Connect Front-Channel Logout 1.0).
    pub(crate) fn front_channel_logout(&self) -> &str {
        &self.front_channel_logout
    }

    /// Returns the path of the endpoint at which an app ends the sessions of a user.
    pub(crate) fn revoke(&self) -> &str {
        &self.revoke
    }

    /// Returns true if `path` is the path of an endpoint at which a provider or an app ends sessions.
    pub(crate) fn is_logout(&self, path: &str) -> bool {
        let endpoints = [
            self.back_channel_logout(),
            self.front_channel_logout(),
            self.revoke(),
        ];
        endpoints.contains(&path)
    }

    /// Returns the path of the public keys of signed assertions.
    pub(crate) fn jwks(&self) -> &str {
        &self.jwks
    }

    /// Returns the path at which a proxy that is configured for oauth2-proxy asks for an auth check.
    pub(crate) fn auth(&self) -> &str {
        &self.auth
    }

    /// Returns the path of the endpoint at which a host receives a ticket.
    pub(crate) fn ticket(&self) -> &str {
        &self.ticket
    }

    /// Returns the path of the endpoint at which the login host receives the ticket requests of the
    /// other hosts.
    pub(crate) fn ticket_request(&self) -> &str {
        &self.ticket_request
    }

    /// Returns the path of the endpoint that tells a script who is signed in.
    pub(crate) fn userinfo(&self) -> &str {
        &self.userinfo
    }

    /// Returns the path of the endpoint that sends events about a session to a script.
    pub(crate) fn events(&self) -> &str {
        &self.events
    }

    /// Returns the path of the endpoint at which the browser continues after a silent sign-in that
    /// has signed nobody in.
    pub(crate) fn silent(&self) -> &str {
        &self.silent
    }

    /// Returns the path of the endpoint that starts a login. After the login, the user returns to
    /// the page that the query names.
    pub(crate) fn start(&self) -> &str {
        &self.start
    }

    /// Returns the path of the page with a user's own sessions. A POST request to the page ends
    /// sessions.
    pub(crate) fn sessions(&self) -> &str {
        &self.sessions
    }

    /// Returns the path of the endpoint that redirects to the saved page of `tab`.
    pub(super) fn saved_page(&self, tab: &Tab) -> String {
        format!("{}return/{}", self.prefix(), tab.as_str())
    }

    /// Returns the name of the saved page whose endpoint has the path `path`.
    pub(crate) fn saved_page_name<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.prefix())?.strip_prefix("return/")
    }

    /// Returns the path of the endpoint that restores the page of `tab` with its fragment.
    pub(super) fn tab_page(&self, tab: &Tab) -> String {
        format!("{}restore/{}", self.prefix(), tab.as_str())
    }

    /// Returns the name of the tab whose page is restored by the endpoint with the path `path`.
    pub(crate) fn tab_page_name<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.prefix())?.strip_prefix("restore/")
    }

    /// Returns the path of the endpoint that offers the kept form of `tab`.
    pub(super) fn kept_form(&self, tab: &Tab) -> String {
        format!("{}form/{}", self.prefix(), tab.as_str())
    }

    /// Returns the name of the kept form that the endpoint with the path `path` offers.
    pub(crate) fn kept_form_name<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.prefix())?.strip_prefix("form/")
    }

    /// Returns the default path of the redirection endpoint.
    pub(crate) fn default_callback(&self) -> String {
        format!("{}callback", self.prefix())
    }

    /// Returns true if `path` is below the prefix of the gateway's own endpoints, even if `path` is
    /// written in an unusual way.
    pub(crate) fn cover(&self, path: &str) -> bool {
        self.prefix.covers(path)
    }

    /// Returns true if an app may read a path as a path below the prefix of the gateway's own
    /// endpoints.
    pub(crate) fn may_cover(&self, reading: &Reading) -> bool {
        reading.may_be_below(&self.prefix)
    }

    /// Returns true if a redirection endpoint at `path` would hide another endpoint of the gateway.
    /// The redirection endpoint hides an endpoint whose path is `path` or below `path`. If there
    /// are several providers, the path of each redirection endpoint is below `path`.
    pub(crate) fn are_hidden_by(&self, path: &str) -> bool {
        let saved_pages = format!("{}return", self.prefix()).into();
        let tab_pages = format!("{}restore", self.prefix()).into();
        let kept_forms = format!("{}form", self.prefix()).into();
        let endpoints = [
            &saved_pages,
            &tab_pages,
            &kept_forms,
            &self.sign_in,
            &self.sign_out,
            &self.signed_out,
            &self.end_session,
            &self.back_channel_logout,
            &self.front_channel_logout,
            &self.revoke,
            &self.jwks,
            &self.auth,
            &self.ticket,
            &self.ticket_request,
            &self.userinfo,
            &self.events,
            &self.silent,
            &self.start,
            &self.sessions,
        ];
        endpoints.into_iter().any(|endpoint| {
            let below = endpoint.strip_prefix(path);
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
    }
}

impl Login {
    /// The paths of the gateway's own endpoints.
    pub(crate) fn own(&self) -> &OwnPaths {
        &self.settings.own
    }
}

impl TryFrom<String> for OwnPaths {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let prefix = Prefix::try_from(text)?;
        let path = prefix.as_str();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        if path == "/" {
            return Err("`/` would take every path from the app; write `/oauth2/`".to_owned());
        }
        if !path.ends_with('/') {
            return Err(format!("`{path}` does not end with `/`; write `{path}/`"));
        }
        if path.contains("//") || !path.bytes().all(allowed) {
            return Err(format!(
                "`{path}` may contain only letters, digits, `-`, `.`, `_`, `~` and single slashes"
            ));
        }
        let at = |name: &str| format!("{path}{name}").into();
        Ok(Self {
            sign_in: at("sign_in"),
            sign_out: at("sign_out"),
            signed_out: at("signed_out"),
            end_session: at("end_session"),
            back_channel_logout: at("backchannel_logout"),
            front_channel_logout: at("frontchannel_logout"),
            revoke: at("revoke"),
            jwks: at("jwks"),
            auth: at("auth"),
            ticket: at("ticket"),
            ticket_request: at("ticket_request"),
            userinfo: at("userinfo"),
            events: at("events"),
            silent: at("silent"),
            start: at("start"),
            sessions: at("sessions"),
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<OwnPaths, String> {
        OwnPaths::try_from(text.to_owned())
    }

    #[test]
    fn all_endpoints_are_below_the_prefix() {
        for prefix in ["/oauth2/", "/.auth/", "/a/b-c_d~/"] {
            let own = parse(prefix).unwrap();
            assert_eq!(own.prefix(), prefix);
            for (path, name) in [
                (own.sign_in(), "sign_in"),
                (own.sign_out(), "sign_out"),
                (own.signed_out(), "signed_out"),
                (own.end_session(), "end_session"),
                (own.back_channel_logout(), "backchannel_logout"),
                (own.front_channel_logout(), "frontchannel_logout"),
                (own.revoke(), "revoke"),
                (own.jwks(), "jwks"),
                (own.auth(), "auth"),
                (own.ticket(), "ticket"),
                (own.ticket_request(), "ticket_request"),
                (own.userinfo(), "userinfo"),
                (own.events(), "events"),
                (own.silent(), "silent"),
                (own.start(), "start"),
                (own.sessions(), "sessions"),
                (&own.default_callback(), "callback"),
            ] {
                assert_eq!(path, format!("{prefix}{name}"));
                assert!(own.cover(path), "{path}");
            }
            let without_slash = prefix.trim_end_matches('/');
            assert!(own.cover(without_slash) && own.cover(&prefix.to_uppercase()));
            assert!(!own.cover("/") && !own.cover(&format!("{without_slash}x/sign_in")));
        }
    }

    #[test]
    fn a_prefix_that_would_take_too_much_or_nothing_is_refused() {
        for (prefix, reason) in [
            ("/", "would take every path"),
            ("", "does not begin with `/`"),
            ("auth/", "does not begin with `/`"),
            ("/auth", "write `/auth/`"),
            ("/auth/*", "patterns have no meaning here"),
            ("/auth/:x/", "patterns have no meaning here"),
            ("/a/../b/", "dot segment"),
            ("/./", "dot segment"),
            ("/a;b/", "may contain only"),
            ("/a%20b/", "may contain only"),
            ("/a$/", "may contain only"),
            ("/ä/", "may contain only"),
            ("/a/?x=/", "without a query"),
            ("https://app.example/auth/", "write only the path"),
        ] {
            let error = parse(prefix).unwrap_err();
            assert!(error.contains(reason), "{prefix}: {error}");
        }
        for prefix in ["//", "/a//", "//a/", "/%2e%2e/"] {
            assert!(parse(prefix).is_err(), "{prefix}");
        }
    }
}
