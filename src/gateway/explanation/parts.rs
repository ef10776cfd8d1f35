//! The parts of an explanation.

use std::collections::BTreeSet;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use crate::access::{Permit, Route};
use crate::identity::Claim;
use crate::session::Session;
use crate::session::cookie::{OTHERS, SESSION};
use crate::target::{FoldedPath, Forms, Reading, Target};
use crate::upstream::AssertionNames;

/// The user of a request.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedUser {
    pub(super) provider: String,
    pub(super) subject: Option<String>,
    pub(super) email: Option<String>,
    pub(super) email_verified: bool,
    pub(super) preferred_username: Option<String>,
    pub(super) groups: Vec<String>,
}

impl ExplainedUser {
    pub(super) fn new(session: &Session) -> Self {
        let (identity, email) = (session.identity(), session.identity().email.as_ref());
        let text = |claim: Option<&Claim>| claim.map(|claim| claim.as_str().to_owned());
        let groups = identity.groups.iter();
        Self {
            provider: session.provider().to_owned(),
            subject: text(identity.subject.as_ref()),
            email: text(email.map(|email| &email.address)),
            email_verified: email.is_some_and(|email| email.verified),
            preferred_username: text(identity.preferred_username.as_ref()),
            groups: groups.map(|group| group.as_str().to_owned()).collect(),
        }
    }
}

/// The canonical target.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedTarget {
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
}

impl ExplainedTarget {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            host: target.authority().to_owned(),
            path: target.path().to_owned(),
            query: target.query().map(str::to_owned),
        }
    }
}

/// One way in which an app may read the path.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedReading {
    pub(super) path: String,
    /// The routes to which the reading may belong. Each of these routes must allow the unusual
    /// forms of the path.
    pub(super) routes: Vec<ReadingRoute>,
}

/// A route to which a reading may belong.
#[derive(Debug, Serialize)]
pub(super) struct ReadingRoute {
    pub(super) name: String,
    /// The unusual forms of the path that the route does not allow, as the settings write them.
    pub(super) refused_forms: String,
}

impl ExplainedReading {
    pub(super) fn new(reading: &Reading, forms: Forms, routes: &[&Route]) -> Self {
        let explained = routes.iter().map(|route| ReadingRoute {
            name: route.name().to_owned(),
            refused_forms: forms.without(route.allowed_forms()).to_string(),
        });
        Self {
            path: reading.path().to_owned(),
            routes: explained.collect(),
        }
    }
}

/// The route that decides about a request.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedRoute {
    pub(super) name: String,
    pub(super) prefix: String,
    /// The normal form of the path, which begins with the normal form of the prefix. `None` if the
    /// path begins with the exact prefix.
    pub(super) covers: Option<String>,
    pub(super) hosts: Vec<String>,
    pub(super) upstream: Option<String>,
    pub(super) rule: String,
    /// Whether the gateway enforces the rule.
    pub(super) enforce: bool,
    pub(super) providers: Vec<String>,
}

impl ExplainedRoute {
    /// Creates the description of a route that decides about a canonical path.
    pub(super) fn new(route: &Route, path: &str) -> Self {
        let is_written = route.public_prefix().matches(path);
        let covers = Some(path).filter(|_| !is_written).map(FoldedPath::whole);
        Self {
            name: route.name().to_owned(),
            prefix: route.prefix().to_owned(),
            covers,
            hosts: route.hosts().map(str::to_owned).collect(),
            upstream: route.upstream_name().map(str::to_owned),
            rule: route.written_rule().to_string(),
            enforce: route.is_enforced(),
            providers: route.providers().map(str::to_owned).collect(),
        }
    }
}

/// The request that the app gets.
#[derive(Debug, Serialize)]
pub(super) struct AppRequest {
    /// The path and the query, with the prefix of the app.
    pub(super) path: String,
    /// The fields that the gateway removes, in every spelling. A name with `*` stands for all names
    /// with this prefix.
    pub(super) removed_fields: BTreeSet<String>,
    /// The cookies that the gateway removes.
    pub(super) removed_cookies: [String; 2],
    /// The fields that the gateway writes.
    pub(super) written_fields: Vec<WrittenField>,
}

/// A field that the gateway writes.
#[derive(Debug, Serialize)]
pub(super) struct WrittenField {
    pub(super) name: String,
    /// The values, if the field contains a claim.
    pub(super) values: Option<Vec<String>>,
    /// Whether the field contains a credential or a signed assertion.
    pub(super) is_secret: bool,
}

impl AppRequest {
    /// Creates the description of a request. `parts` is the head of the request that the app gets,
    /// without signed assertions. The client of the request has sent no field except `Host`, so the
    /// gateway has written all other fields.
    pub(super) fn new(parts: &Parts, permit: &Permit, mut removed: BTreeSet<String>) -> Self {
        if !permit.passes_authorization() {
            removed.insert(AUTHORIZATION.to_string());
        }
        let fields = permit.route().fields();
        let names: BTreeSet<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
        let written = names.into_iter().map(|name| {
            let values: Vec<&HeaderValue> = parts.headers.get_all(name).iter().collect();
            let is_claim = is_claim(&fields.names, name);
            WrittenField {
                name: name.to_owned(),
                values: is_claim.then(|| values.iter().map(|value| text(value)).collect()),
                is_secret: values.iter().any(|value| value.is_sensitive()),
            }
        });
        // Only a user with a session has a signed assertion.
        let signed = fields.signed.iter().filter(|_| permit.has_session());
        let signed = signed.map(|signed| WrittenField {
            name: signed.field().to_string(),
            values: None,
            is_secret: true,
        });
        Self {
            path: parts.uri.to_string(),
            removed_fields: removed,
            removed_cookies: [SESSION.to_owned(), format!("{OTHERS}*")],
            written_fields: written.chain(signed).collect(),
        }
    }
}

/// Returns true if the field with this name contains a claim.
fn is_claim(names: &AssertionNames, name: &str) -> bool {
    let standard = [
        &names.user,
        &names.email,
        &names.preferred_username,
        &names.groups,
        &names.provider,
    ];
    let mut standard = standard.into_iter().flatten();
    let mut additional = names.fields.iter();
    standard.any(|other| other == name)
        || additional.any(|(other, value)| other == name && value.is_claim())
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
