//! The scripts in pages of the gateway.

use http::HeaderValue;

use super::page::{escape, hash, policy};

/// A script in a page.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// The text of the script, which is part of the program.
    pub(super) source: &'static str,
    /// The values for the script: the names and values of `data-` attributes.
    pub(super) data: Vec<(&'static str, String)>,
    /// The URL that a browser without scripts opens at once.
    pub(super) otherwise: Option<String>,
}

impl Script {
    /// Returns the content security policy of a page with the script. The browser runs no other
    /// script. The policy does not limit forms, because Chromium would apply such a limit also to
    /// the redirects of the app after the form of the script.
    pub(super) fn policy(&self) -> HeaderValue {
        let hash = hash(self.source);
        policy(&format!("script-src {hash}; frame-ancestors 'none'"))
    }

    pub(super) fn html(&self) -> String {
        let mut html = "<script".to_owned();
        for (name, value) in &self.data {
            html.extend([" data-", name, "=\"", &escape(value), "\""]);
        }
        html.extend([">", self.source, "</script>\n"]);
        html
    }
}
