//! The routes.

use std::sync::Arc;

use super::buffering::BufferSettings;
use super::cross_site::CrossSite;
use super::destination::Destination;
use super::freshness::Freshness;
use super::rewrite::{Rewrite, RewriteSettings};
use super::route_settings::{
    CacheSetting, Enforcement, Fragment, OnRefusal, PostedForm, RouteSettings, SilentSignIn,
};
use super::rule::{Rule, Verdict};
use super::static_answer::StaticAnswer;
use super::stream::StreamSettings;
use crate::identity::Claim;
use crate::session::Session;
use crate::target::{Forms, Prefix, canonical_authority};
use crate::upstream::{AppFields, AssertionNames, CredentialSettings, Protocol, Upstream};

/// One route of the table. Each worker has its own copy of the route.
#[derive(Clone, Debug)]
pub struct Route {
    index: usize,
    name: Box<str>,
    hosts: Vec<Box<str>>,
    pub(super) prefix: Prefix,
    pub(super) allow_in_path: Forms,
    /// The rule that the gateway enforces.
    pub(super) rule: Rule,
    /// The rule in the settings, if the gateway does not enforce this rule.
    unenforced: Option<Rule>,
    effect: Effect,
    /// The names of the accepted providers, each as the value of an assertion field.
    providers: Vec<Claim>,
    pub(super) allow_preflight: bool,
    /// What a login does with the fragment of the requested address.
    fragment: Fragment,
    silent_sign_in: SilentSignIn,
    /// The limits for the sign-in of the users. `None` if only the limits of all sessions apply.
    pub(super) freshness: Option<Freshness>,
    /// What a login does with a form that arrives after the session has ended.
    posted_form: PostedForm,
    /// The sites whose pages may send unsafe requests with a user's session.
    pub(super) cross_site: CrossSite,
    pub(super) on_refusal: OnRefusal,
    app_sign_out: Option<Box<str>>,
    pub(super) cache: CacheSetting,
    pub(super) is_stream: bool,
    streams: StreamSettings,
    buffers: BufferSettings,
    /// The credential settings in the table of the route.
    credentials: CredentialSettings,
    /// The fields that the gateway writes into the requests of the route.
    pub(super) fields: AppFields,
    rewrite_settings: RewriteSettings,
    pub(super) rewrite: Option<Box<Rewrite>>,
    // This member is private to the module, so that code outside the module can reach the upstream
    // only through a `Permit`.
    pub(super) destination: Destination,
}

/// The effect of a route on its paths.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Effect {
    /// Everybody may use the paths.
    Opens,
    /// The rule or the answer of the route keeps users away from the paths.
    Protects,
}

impl Route {
    /// Creates a route with the default names of the assertion fields.
    pub(super) fn new(
        index: usize,
        mut settings: RouteSettings,
        providers: Vec<Claim>,
        destination: Destination,
    ) -> Self {
        // The authority of a target has one form, so the hosts of the settings get the same form. No
        // target has a host without this form, and the settings name the gateway's own hosts.
        let hosts = settings.hosts.iter();
        let hosts: Vec<Box<str>> = hosts
            .map(|host| canonical_authority(host).unwrap_or_else(|_malformed| host.clone()))
            .collect();
        let credentials = settings.take_credentials();
        let names = AssertionNames::default();
        let is_public = settings.access == Rule::Public;
        let (rule, unenforced) = match settings.enforce {
            Enforcement::Refuse => (settings.access, None),
            Enforcement::Report => (Rule::SignedIn, Some(settings.access)),
        };
        let (rewrite, denies) = match &destination {
            Destination::App(app) => {
                let rewrite = Rewrite::new(&settings.prefix, &settings.rewrite, app);
                (rewrite, false)
            }
            Destination::Answer(answer) => (None, answer.denies()),
            Destination::AskingProxy => (None, false),
        };
        Self {
            index,
            name: settings.name.unwrap_or_else(|| {
                let host = hosts.first().map_or("", AsRef::as_ref);
                format!("{host}{}", settings.prefix.as_str()).into()
            }),
            hosts,
            prefix: settings.prefix,
            allow_in_path: settings.allow_in_path,
            rule,
            unenforced,
            effect: if denies || !is_public {
                Effect::Protects
            } else {
                Effect::Opens
            },
            providers,
            allow_preflight: settings.allow_preflight,
            fragment: settings.keep_fragment,
            silent_sign_in: settings.silent_sign_in,
            freshness: Some(settings.session).filter(|limits| !limits.is_unlimited()),
            posted_form: settings.keep_forms,
            cross_site: settings.cross_site,
            on_refusal: settings.on_upstream_401,
            app_sign_out: settings.app_sign_out,
            cache: settings.cache,
            is_stream: settings.stream,
            streams: settings.streams,
            buffers: settings.buffers,
            fields: AppFields::new(names, &credentials, None, is_public),
            credentials,
            rewrite_settings: settings.rewrite,
            rewrite: rewrite.map(Box::new),
            destination,
        }
    }

    /// The position of the route in the settings, counted from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The name of the route.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The providers whose sessions the route accepts. The sign-in page shows the buttons of the
    /// providers in the order of the returned names.
    pub fn providers(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.providers.iter().map(Claim::as_str)
    }

    /// Returns the name of an accepted provider, as the value of an assertion field. Returns `None`
    /// if the route does not accept this provider.
    pub(super) fn provider(&self, name: &str) -> Option<&Claim> {
        self.providers
            .iter()
            .find(|provider| provider.as_value().as_bytes() == name.as_bytes())
    }

    /// Returns true if the route admits every signed-in user, or every user with a verified email
    /// address.
    pub(crate) fn admits_every_user(&self) -> bool {
        self.rule == Rule::SignedIn || self.rule.admits_every_address()
    }

    /// Whether the rule of the route lists groups of this provider.
    pub(crate) fn lists_groups_of(&self, provider: &str) -> bool {
        self.written_rule().lists_groups() && self.provider(provider).is_some()
    }

    /// The rule in the settings of the route.
    pub(crate) fn written_rule(&self) -> &Rule {
        self.unenforced.as_ref().unwrap_or(&self.rule)
    }

    /// Whether the gateway enforces the rule in the settings.
    pub(crate) fn is_enforced(&self) -> bool {
        self.unenforced.is_none()
    }

    /// Returns true if the rule in the settings would refuse the user of `session`, but the gateway
    /// does not enforce this rule.
    pub(super) fn would_refuse(&self, session: &Session) -> bool {
        let refuses = |rule: &Rule| rule.check(session.identity()) == Verdict::Refused;
        self.unenforced.as_ref().is_some_and(refuses)
    }

    /// The settings for the streams of the route.
    pub(crate) fn streams(&self) -> &StreamSettings {
        &self.streams
    }

    /// Whether the settings declare that the requests of the route are streams.
    pub(crate) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// The sizes of the buffers for slow clients.
    pub(crate) fn buffers(&self) -> BufferSettings {
        self.buffers
    }

    /// The path prefix of the route.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// The path prefix of the route.
    pub(crate) fn public_prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Returns the hosts (with optional ports) to which the route applies. If the route applies to
    /// all hosts, the iterator is empty.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(AsRef::as_ref)
    }

    /// Whether the route is open to everybody.
    pub fn is_public(&self) -> bool {
        self.rule == Rule::Public
    }

    /// The app of the route. `None` if the gateway forwards no request of the route.
    pub(super) fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.destination {
            Destination::App(app) => Some(app),
            Destination::Answer(_) | Destination::AskingProxy => None,
        }
    }

    /// Whether the proxy that asks for auth checks forwards the requests of the route. The gateway
    /// forwards no request of such a route.
    pub(crate) fn is_for_auth_checks(&self) -> bool {
        matches!(self.destination, Destination::AskingProxy)
    }

    /// Whether the gateway forwards the requests of the route to an app.
    pub(crate) fn has_app(&self) -> bool {
        self.upstream().is_some()
    }

    /// The upstream's name, for logs. `None` if the route has no app.
    pub(crate) fn upstream_name(&self) -> Option<&str> {
        self.upstream().map(|app| app.name())
    }

    /// The answer of the gateway, if the gateway itself answers the requests of the route.
    pub(crate) fn answer(&self) -> Option<&StaticAnswer> {
        match &self.destination {
            Destination::App(_) | Destination::AskingProxy => None,
            Destination::Answer(answer) => Some(answer),
        }
    }

    /// The settings of the addresses that the gateway replaces.
    pub(crate) fn rewrite_settings(&self) -> &RewriteSettings {
        &self.rewrite_settings
    }

    /// Whether the gateway forwards CORS preflights without a session.
    pub(crate) fn allows_preflight(&self) -> bool {
        self.allow_preflight
    }

    /// Returns true if pages of other sites may send unsafe requests with a user's session.
    pub(crate) fn permits_other_sites(&self) -> bool {
        self.cross_site != CrossSite::default()
    }

    /// Whether a login keeps the fragment of the requested address.
    pub(crate) fn keeps_fragment(&self) -> bool {
        self.fragment == Fragment::Kept
    }

    /// Whether the gateway first tries to sign in the user of a page load without showing a page.
    pub(crate) fn signs_in_silently(&self) -> bool {
        self.silent_sign_in == SilentSignIn::First
    }

    /// The limits for the sign-in of the users. `None` if only the limits of all sessions apply.
    pub(crate) fn freshness(&self) -> Option<&Freshness> {
        self.freshness.as_ref()
    }

    /// Whether a login keeps a form that arrives after the session has ended.
    pub(crate) fn keeps_forms(&self) -> bool {
        self.posted_form == PostedForm::Kept
    }

    /// Returns the credential settings in the table of the route.
    pub(crate) fn credentials(&self) -> &CredentialSettings {
        &self.credentials
    }

    /// The fields that the gateway writes into the requests of the route.
    pub(crate) fn fields(&self) -> &AppFields {
        &self.fields
    }

    /// The gateway's action after an app has refused a token.
    pub(crate) fn on_refusal(&self) -> OnRefusal {
        self.on_refusal
    }

    /// Whether shared caches may store the app's answers to users.
    pub(crate) fn cache(&self) -> CacheSetting {
        self.cache
    }

    /// The path of the app's own sign-out.
    pub(crate) fn app_sign_out(&self) -> Option<&str> {
        self.app_sign_out.as_deref()
    }

    /// Whether the app of the route speaks HTTP/2. An HTTP/2 app never switches to another
    /// protocol.
    pub(crate) fn speaks_http2(&self) -> bool {
        let upstream = self.upstream();
        upstream.is_some_and(|app| app.settings().protocol == Protocol::Http2)
    }

    /// Returns true if the route serves requests with this authority and this path. A route that
    /// gives access to everybody matches only paths with the exact spelling of its prefix. A route
    /// that keeps users away from its paths also matches other spellings of its prefix, because the
    /// app may read these spellings as the same path.
    pub(super) fn matches(&self, authority: &str, path: &str) -> bool {
        self.is_for_host(authority)
            && match self.effect {
                Effect::Opens => self.prefix.matches(path),
                Effect::Protects => self.prefix.covers(path),
            }
    }

    /// Whether the rule or the answer of the route keeps users away from its paths.
    pub(super) fn protects(&self) -> bool {
        self.effect == Effect::Protects
    }

    /// Whether the route serves this host, which is a canonical authority.
    pub(crate) fn is_for_host(&self, authority: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|host| **host == *authority)
    }

    /// Returns true if `self` matches all requests that `other` could match. The gateway tries
    /// `self` before `other`.
    pub(super) fn hides(&self, other: &Self) -> bool {
        let every_host = self.hosts.is_empty();
        let hosts = every_host
            || (!other.hosts.is_empty()
                && other.hosts.iter().all(|host| self.hosts.contains(host)));
        hosts && self.takes_paths_of(other)
    }

    /// Returns true if `self` matches all paths for which the operator has written `other`. The
    /// gateway tries `self` before `other`, so the prefix of `self` is at least as specific. A
    /// route that protects takes the paths of `other` if both prefixes are spellings of one path,
    /// such as `/a/` and `/a`. A public route takes only the same prefix.
    pub(crate) fn takes_paths_of(&self, other: &Self) -> bool {
        match self.effect {
            Effect::Opens => self.prefix == other.prefix,
            Effect::Protects => self.prefix.covers(other.prefix.as_str()),
        }
    }

    /// Returns true if `self` would open a path that `other` protects: the prefix of `self` begins
    /// with the prefix of `other` only in another spelling, and the rule of `self` is not as strict
    /// as that of `other`. The gateway tries `self` before `other`.
    pub(super) fn opens_by_spelling(&self, other: &Self) -> bool {
        other.protects()
            && other.prefix.begins_in_another_spelling(&self.prefix)
            && self.shares_host(other)
            && self.answer().is_none()
            && !self.is_as_strict_as(other)
    }

    fn shares_host(&self, other: &Self) -> bool {
        self.hosts.is_empty()
            || other.hosts.is_empty()
            || self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// Returns true if a request can match both routes: both routes serve the same host, and their
    /// prefixes are spellings of one prefix.
    pub(super) fn shadows(&self, other: &Self) -> bool {
        let prefix = self.prefix.is_spelling_of(&other.prefix);
        let both_any = self.hosts.is_empty() && other.hosts.is_empty();
        prefix && (both_any || self.hosts.iter().any(|host| other.hosts.contains(host)))
    }
}
