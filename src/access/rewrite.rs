//! The prefix by which an app knows a route, and the addresses in the answers of the app.
//!
//! An app may be below another path than the prefix of its route. In this case, the gateway replaces
//! the prefix of each request. The app prefix of a route is the path of the upstream's URL, followed
//! by the setting `app_prefix`. [`super::bypass`] checks whether a replaced prefix lets users reach
//! paths that another route protects.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::addresses::{Addresses, Replaced, ReplacedFields};
use super::route::Route;
use crate::origin::Origin;
use crate::target::{self, Prefix, Target};
use crate::upstream::Upstream;

/// The settings of a route whose app does not know its public address.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RewriteSettings {
    /// The prefix as the app knows it. By default, the app knows the prefix of the route.
    pub(crate) app_prefix: Option<Prefix>,
    /// The fields that tell the app the prefix that the gateway removes.
    pub(crate) prefix_fields: Vec<PrefixField>,
    /// Whether addresses in `Location`, `Content-Location` and `Refresh` are replaced.
    pub(crate) locations: bool,
    /// Whether `Path` and `Domain` in `Set-Cookie` are replaced.
    pub(crate) cookies: bool,
    /// Other origins by which the app knows itself.
    pub(crate) app_origins: Vec<Origin>,
    /// The names of the routes whose rules the operator knowingly lets the users of this route
    /// bypass.
    pub(crate) bypasses: Vec<Box<str>>,
}

/// A field that tells an app which prefix browsers see before the paths of the app.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(crate) enum PrefixField {
    /// The field that Spring, ASP.NET and Traefik use.
    #[serde(rename = "X-Forwarded-Prefix")]
    ForwardedPrefix,
    /// The field that Python apps use.
    #[serde(rename = "X-Script-Name")]
    ScriptName,
}

impl PrefixField {
    fn name(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::ForwardedPrefix => "x-forwarded-prefix",
            Self::ScriptName => "x-script-name",
        })
    }
}

/// The differences between the public addresses of a route and the addresses of its app.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    path: Option<ReplacedPrefix>,
    addresses: Option<Addresses>,
}

/// The prefix of a route, and the prefix that replaces it in a forwarded request.
#[derive(Clone, Debug)]
struct ReplacedPrefix {
    public: Prefix,
    app: Prefix,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Rewrite {
    /// Returns `None` if the app knows the public addresses of the route.
    pub(super) fn new(
        public: &Prefix,
        settings: &RewriteSettings,
        upstream: &Upstream,
    ) -> Option<Self> {
        let app = app_prefix(public, settings, upstream);
        let fields = ReplacedFields {
            locations: settings.locations,
            cookies: settings.cookies,
        };
        let is_replaced = app != *public;
        let (locations, cookies) = (settings.locations, settings.cookies);
        let addresses = (locations || cookies).then(|| {
            // Without a replaced prefix, the paths of all addresses stay unchanged.
            let replaced_prefix = |prefix: &Prefix| {
                let prefix = is_replaced.then(|| prefix.clone());
                prefix.unwrap_or_default()
            };
            let replaced = Replaced {
                app: replaced_prefix(&app),
                public: replaced_prefix(public),
            };
            let url = |origin: &Origin| Url::parse(&origin.to_string()).ok();
            let others = settings.app_origins.iter().filter_map(url);
            let root = url(upstream.origin())?;
            Some(Addresses::new(root, others, replaced, fields))
        });
        let path = is_replaced.then(|| ReplacedPrefix {
            fields: prefix_fields(public, &app, settings),
            public: public.clone(),
            app,
        });
        let addresses = addresses.flatten();
        (path.is_some() || addresses.is_some()).then_some(Self { path, addresses })
    }

    fn forwarded(&self, target: &Target) -> Result<PathAndQuery, target::Error> {
        match &self.path {
            Some(path) => target.with_prefix(&path.public, &path.app),
            None => Ok(target.path_and_query().clone()),
        }
    }

    /// Returns the path to which the gateway redirects a browser, if the request is for the prefix
    /// itself without a slash at its end. The app would answer such a request with its start page,
    /// and the relative links of this page would lead out of the prefix.
    pub(crate) fn with_slash(&self, target: &Target) -> Option<String> {
        let path = self.path.as_ref()?;
        if !path.app.as_str().ends_with('/') || !path.public.rest(target.path()).is_empty() {
            return None;
        }
        let query = target.query().map(|query| format!("?{query}"));
        Some(format!("{}/{}", target.path(), query.unwrap_or_default()))
    }

    /// Writes the fields that tell the app its public prefix. The caller has already removed these
    /// fields from the request of the client.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let fields = self.path.iter().flat_map(|path| &path.fields);
        for (name, value) in fields {
            headers.insert(name, value.clone());
        }
    }

    /// The addresses that the gateway replaces in the answers of the app.
    pub(crate) fn addresses(&self) -> Option<&Addresses> {
        self.addresses.as_ref()
    }
}

impl Route {
    /// The addresses that the gateway replaces. `None` if the app knows its public addresses.
    pub(crate) fn rewrite(&self) -> Option<&Rewrite> {
        self.rewrite.as_deref()
    }

    /// Returns the path and the query that the app gets for a request with this target.
    ///
    /// # Errors
    ///
    /// [`target::Error`], if the path is not a valid path with the prefix of the app.
    pub(crate) fn forwarded(&self, target: &Target) -> Result<PathAndQuery, target::Error> {
        match self.rewrite() {
            Some(rewrite) => rewrite.forwarded(target),
            None => Ok(target.path_and_query().clone()),
        }
    }

    /// The prefix that the gateway removes from the paths of the route. `None` if the gateway
    /// removes no prefix.
    pub(crate) fn removed_prefix(&self) -> Option<&str> {
        let app = app_prefix(
            self.public_prefix(),
            self.rewrite_settings(),
            self.upstream()?,
        );
        removed_prefix(self.public_prefix(), &app)
    }
}

/// Returns the prefix by which the app knows a route: the path of the upstream's URL, followed by
/// the configured prefix of the app.
pub(super) fn app_prefix(
    public: &Prefix,
    settings: &RewriteSettings,
    upstream: &Upstream,
) -> Prefix {
    let below = settings.app_prefix.as_ref().unwrap_or(public);
    if upstream.base().without_slash().is_empty() {
        below.clone()
    } else {
        upstream.base().append(below)
    }
}

/// Returns the prefix that the app must put before its own paths, to get public paths. Returns
/// `None` if no such prefix exists. For example, no such prefix exists if the public prefix is `/a`
/// and the app's prefix is `/b`.
pub(super) fn removed_prefix<'p>(public: &'p Prefix, app: &Prefix) -> Option<&'p str> {
    public.before(app).filter(|removed| !removed.is_empty())
}

fn prefix_fields(
    public: &Prefix,
    app: &Prefix,
    settings: &RewriteSettings,
) -> Vec<(HeaderName, HeaderValue)> {
    let removed = removed_prefix(public, app).and_then(|text| HeaderValue::try_from(text).ok());
    let fields = settings.prefix_fields.iter();
    let with_value = fields.filter_map(|field| Some((field.name(), removed.clone()?)));
    with_value.collect()
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;

    fn upstream(url: &str) -> Upstream {
        let settings = serde_json::from_value(json!({ "url": url })).unwrap();
        Upstream::new("app", &settings).unwrap()
    }

    fn rewrite(public: &str, url: &str, settings: serde_json::Value) -> Option<Rewrite> {
        let settings = serde_json::from_value(settings).unwrap();
        let public = Prefix::try_from(public.to_owned()).unwrap();
        Rewrite::new(&public, &settings, &upstream(url))
    }

    fn target(path: &str) -> Target {
        let request = Request::get(path).header("host", "gw.test").body(());
        Target::from_request(&request.unwrap().into_parts().0).unwrap()
    }

    #[test]
    fn the_app_gets_the_path_of_its_url_and_its_own_prefix() {
        let app = "http://127.0.0.1:1";
        let base = "http://127.0.0.1:1/base/";
        for (public, url, app_prefix, path, wanted) in [
            ("/a", app, "/", "/a/x?q", "/x?q"),
            ("/a", app, "/b", "/A/x", "/b/x"),
            ("/a", base, "/", "/a/x", "/base/x"),
            ("/a", base, "/", "/a", "/base/"),
            ("/a", base, "/b", "/a", "/base/b"),
            ("/a", base, "/a", "/a/x", "/base/a/x"),
            ("/", base, "/", "/x", "/base/x"),
            ("/", base, "/", "/", "/base/"),
            ("/base", base, "/", "/base/x", "/base/x"),
        ] {
            let settings = json!({ "app_prefix": app_prefix, "locations": true });
            let rewrite = rewrite(public, url, settings).unwrap();
            let forwarded = rewrite.forwarded(&target(path)).unwrap();
            assert_eq!(forwarded, wanted, "{public} {url} {app_prefix} {path}");
        }
        let nothing = rewrite("/a", app, json!({}));
        assert!(nothing.is_none());
        assert!(rewrite("/a", base, json!({})).is_some());
    }

    #[test]
    fn the_app_gets_the_removed_prefix_and_no_other_prefix() {
        let fields = json!(["X-Forwarded-Prefix", "X-Script-Name"]);
        for (public, url, app_prefix, wanted) in [
            ("/a", "http://app", "/", Some("/a")),
            ("/a/", "http://app", "/", Some("/a")),
            ("/a/b", "http://app", "/b", Some("/a")),
            ("/a/b", "http://app/b", "/", Some("/a")),
            ("/a", "http://app", "/b", None),
            ("/ab", "http://app", "/b", None),
            ("/", "http://app", "/b", None),
        ] {
            let settings = json!({ "app_prefix": app_prefix, "prefix_fields": fields });
            let rewrite = rewrite(public, url, settings).unwrap();
            let mut headers = HeaderMap::new();
            rewrite.write(&mut headers);
            for name in ["x-forwarded-prefix", "x-script-name"] {
                let value = headers.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(value, wanted, "{public} {url} {app_prefix}");
            }
        }
        let without = rewrite("/a", "http://app", json!({ "app_prefix": "/" })).unwrap();
        let mut headers = HeaderMap::new();
        without.write(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn only_the_prefix_itself_gets_a_slash() {
        let slash = |app_prefix: &str, path: &str| {
            let rewrite = rewrite("/a", "http://app", json!({ "app_prefix": app_prefix }));
            rewrite.unwrap().with_slash(&target(path))
        };
        assert_eq!(slash("/", "/a").as_deref(), Some("/a/"));
        assert_eq!(slash("/", "/a?x=/").as_deref(), Some("/a/?x=/"));
        assert_eq!(slash("/", "/A;x").as_deref(), Some("/A;x/"));
        assert_eq!(slash("/b/", "/a").as_deref(), Some("/a/"));
        assert_eq!(slash("/b", "/a"), None);
        assert_eq!(slash("/", "/a/"), None);
        assert_eq!(slash("/", "/a/b"), None);
    }
}
