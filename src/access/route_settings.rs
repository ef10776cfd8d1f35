//! The settings of a route.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::buffering::BufferSettings;
use super::cross_site::CrossSite;
use super::freshness::Freshness;
use super::rewrite::RewriteSettings;
use super::rule::Rule;
use super::static_answer::AnswerSettings;
use super::stream::StreamSettings;
use crate::target::{Forms, Prefix};
use crate::upstream::{BasicSettings, Bearer, CredentialSettings, FieldName};

/// The settings of one route.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// The name of the route in logs and metrics. The default name is the prefix. If the route has
    /// hosts, the default name is the first host followed by the prefix.
    pub name: Option<Box<str>>,
    /// The hosts to which the route applies. Each entry is a host name, with the port if the port
    /// is not the default port. If the list is empty, the route applies to all hosts.
    #[serde(default)]
    pub(crate) hosts: Vec<Box<str>>,
    /// The path prefix: the route is for this path and for all paths below this path.
    #[serde(default)]
    pub prefix: Prefix,
    /// The unusual forms of a path that the route allows.
    #[serde(default)]
    pub(super) allow_in_path: Forms,
    /// The condition that a user must meet to use the route.
    #[serde(default = "signed_in")]
    pub(crate) access: Rule,
    /// Whether the gateway refuses the users who do not meet the rule.
    #[serde(default)]
    pub(super) enforce: Enforcement,
    /// The name of the upstream. The operator may omit the name if there is only one upstream. With
    /// the name `""`, or if there is no upstream, only a proxy that asks for auth checks can use the
    /// route.
    pub(crate) upstream: Option<Box<str>>,
    /// The answer of a route without an app.
    pub(crate) answer: Option<AnswerSettings>,
    /// The addresses that the gateway replaces, if the app does not know its public address.
    #[serde(default)]
    pub(crate) rewrite: RewriteSettings,
    /// What a login does with the fragment of the requested address.
    #[serde(default)]
    pub(super) keep_fragment: Fragment,
    /// Whether the gateway first tries to sign in the user of a page load without showing a page.
    #[serde(default)]
    pub(super) silent_sign_in: SilentSignIn,
    /// The limits for the sign-in of the users.
    #[serde(default)]
    pub(super) session: Freshness,
    /// What a login does with a form that arrives after the session has ended.
    #[serde(default)]
    pub(super) keep_forms: PostedForm,
    /// The names of the providers whose sessions are accepted. By default, the route accepts
    /// sessions of all providers.
    pub(crate) provider: Option<ProviderNames>,
    /// Whether CORS preflights are forwarded without a session. Browsers send preflights without
    /// cookies.
    #[serde(default)]
    pub(crate) allow_preflight: bool,
    /// The sites whose pages may send unsafe requests with a user's session.
    #[serde(default)]
    pub(crate) cross_site: CrossSite,
    /// The gateway's action after an app has refused a token that the gateway considers valid.
    #[serde(default)]
    pub(crate) on_upstream_401: OnRefusal,
    /// The path of the app's own sign-out. When the app has answered a request for this path, the
    /// session of the gateway ends, too.
    #[serde(default)]
    pub(crate) app_sign_out: Option<Box<str>>,
    /// Whether shared caches may store the app's answers to users.
    #[serde(default)]
    pub(super) cache: CacheSetting,
    /// Whether the answers of the route are streams. The client of a stream may send nothing for
    /// any length of time.
    #[serde(default)]
    pub(crate) stream: bool,
    /// The settings for connections on which the app has switched to another protocol.
    #[serde(default)]
    pub(crate) streams: StreamSettings,
    /// The sizes of the buffers for slow clients.
    #[serde(default)]
    pub(crate) buffers: BufferSettings,
    /// The token that the app gets.
    #[serde(default)]
    pub(super) bearer: Option<Bearer>,
    /// The field that contains the token, instead of `Authorization`.
    #[serde(default)]
    pub(super) token_field: Option<FieldName>,
    /// The user name and the password that the app gets.
    #[serde(default)]
    pub(super) basic: Option<BasicSettings>,
}

/// What the gateway does with the users who do not meet the rule of a route.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "bool")]
pub(super) enum Enforcement {
    /// The gateway refuses the users.
    #[default]
    Refuse,
    /// The gateway only reports the users.
    Report,
}

impl From<bool> for Enforcement {
    fn from(enforce: bool) -> Self {
        if enforce { Self::Refuse } else { Self::Report }
    }
}

/// The gateway's action when an app refuses the user's access token.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnRefusal {
    /// The gateway forwards the app's answer.
    #[default]
    Pass,
    /// The gateway refreshes the token and sends the request again, if possible.
    RefreshAndRetry,
    /// The gateway ends the session, and the user signs in again.
    Relogin,
}

/// Whether shared caches may store an app's answers to users.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CacheSetting {
    /// The `Cache-Control` of the app decides.
    Pass,
    /// No shared cache may store an answer that can belong to one user.
    #[default]
    Private,
}

/// What a login does with the fragment of the requested address: the part after `#`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "bool")]
pub(super) enum Fragment {
    /// A script keeps the fragment in the storage of the browser tab.
    Kept,
    /// The provider and the gateway never get the fragment, so the fragment is lost.
    #[default]
    Lost,
}

impl From<bool> for Fragment {
    fn from(keep: bool) -> Self {
        if keep { Self::Kept } else { Self::Lost }
    }
}

/// Whether the gateway first tries to sign in the user of a page load without showing a page.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "bool")]
pub(super) enum SilentSignIn {
    /// The gateway asks the provider whether the user is signed in there.
    First,
    /// The gateway begins no silent sign-in.
    #[default]
    Off,
}

impl From<bool> for SilentSignIn {
    fn from(first: bool) -> Self {
        if first { Self::First } else { Self::Off }
    }
}

/// What a login does with a form that arrives after the session has ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "bool")]
pub(super) enum PostedForm {
    /// A script keeps the encrypted form in the storage of the browser tab.
    Kept,
    /// The form is lost, and the user has to send the form again.
    #[default]
    Lost,
}

impl From<bool> for PostedForm {
    fn from(keep: bool) -> Self {
        if keep { Self::Kept } else { Self::Lost }
    }
}

/// The name of one provider, or the names of several providers from which the user can choose.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProviderNames(pub(super) Vec<Box<str>>);

impl<'de> Deserialize<'de> for ProviderNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Vec<Box<str>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a provider, or a list of names")
            }

            fn visit_str<E>(self, name: &str) -> Result<Vec<Box<str>>, E> {
                Ok(vec![name.into()])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Box<str>>, A::Error> {
                let mut names: Vec<Box<str>> = Vec::new();
                while let Some(name) = list.next_element::<Box<str>>()? {
                    if names.contains(&name) {
                        return Err(A::Error::custom(format!("names `{name}` twice")));
                    }
                    names.push(name);
                }
                if names.is_empty() {
                    let why = "the list is empty; omit it to accept every provider";
                    return Err(A::Error::custom(why));
                }
                Ok(names)
            }
        }
        deserializer.deserialize_any(Names).map(Self)
    }
}

fn signed_in() -> Rule {
    Rule::SignedIn
}

impl RouteSettings {
    /// Removes the settings of the credentials from `self`, and returns the removed settings.
    pub(super) fn take_credentials(&mut self) -> CredentialSettings {
        CredentialSettings {
            bearer: self.bearer.take(),
            token_field: self.token_field.take(),
            basic: self.basic.take(),
        }
    }
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            name: None,
            hosts: Vec::new(),
            prefix: Prefix::default(),
            allow_in_path: Forms::default(),
            access: Rule::SignedIn,
            enforce: Enforcement::default(),
            upstream: None,
            answer: None,
            rewrite: RewriteSettings::default(),
            keep_fragment: Fragment::Lost,
            silent_sign_in: SilentSignIn::Off,
            session: Freshness::default(),
            keep_forms: PostedForm::Lost,
            provider: None,
            allow_preflight: false,
            cross_site: CrossSite::default(),
            on_upstream_401: OnRefusal::Pass,
            app_sign_out: None,
            cache: CacheSetting::Private,
            stream: false,
            streams: StreamSettings::default(),
            buffers: BufferSettings::default(),
            bearer: None,
            token_field: None,
            basic: None,
        }
    }
}
