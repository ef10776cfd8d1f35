//! The answer of a route without an app: a file, a redirect, or a page that states why nothing is
//! there.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use url::Url;

use super::route::Route;
use super::route_table::RouteTable;
use crate::target::Prefix;

/// The maximum size of a body: 1 MiB. Each body stays in memory.
const MAX_BODY: u64 = 1024 * 1024;

/// The settings of an answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerSettings {
    /// The status code. The default is 200 for a body, and 302 for a redirect.
    status: Option<u16>,
    /// The file with the body.
    body_file: Option<PathBuf>,
    /// The media type of the body.
    content_type: Option<String>,
    /// The path or the `https` URL to which browsers are redirected.
    redirect: Option<String>,
    /// The time after which a client may try again.
    retry_after_secs: Option<u32>,
}

/// An answer that is the same for all requests of a route.
#[derive(Debug)]
pub(crate) struct StaticAnswer {
    pub(crate) status: StatusCode,
    pub(crate) content: AnswerContent,
    pub(crate) retry_after: Option<Duration>,
    /// Whether browsers and other caches may store the answer for some minutes.
    pub(crate) is_cacheable: bool,
}

/// The content of an answer.
#[derive(Debug)]
pub(crate) enum AnswerContent {
    /// The content of a file.
    Body {
        media_type: HeaderValue,
        bytes: Bytes,
    },
    /// A page of the gateway, which explains the status.
    Page,
    /// A redirect to a path of the public origin.
    Path(Box<str>),
    /// A redirect to a complete URL.
    Url(HeaderValue),
}

/// The reason why an answer cannot be used. The operator sees the settings key, followed by the
/// message of this error.
///
/// Responsible: the operator.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct AnswerError {
    key: &'static str,
    reason: String,
}

impl AnswerError {
    fn new(key: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { key, reason }
    }

    /// The key below `answer` with the problem.
    pub(crate) fn key(&self) -> &'static str {
        self.key
    }
}

impl StaticAnswer {
    /// Creates the answer from its settings. `is_public` states whether the route is public. Blocks
    /// the thread while the function reads the file with the body.
    pub(super) fn new(settings: &AnswerSettings, is_public: bool) -> Result<Self, AnswerError> {
        let (status, content) = match (&settings.redirect, &settings.body_file) {
            (Some(_), Some(_)) => {
                let reason = "is written together with redirect; write only one of the two";
                return Err(AnswerError::new("body_file", reason));
            }
            (Some(target), None) => (redirect_status(settings.status)?, redirect(target)?),
            (None, Some(file)) => (body_status(settings.status)?, body(file, settings)?),
            (None, None) => (page_status(settings.status)?, AnswerContent::Page),
        };
        if settings.content_type.is_some() && settings.body_file.is_none() {
            let reason = "has no effect without body_file";
            return Err(AnswerError::new("content_type", reason));
        }
        if settings.retry_after_secs.is_some() && status != StatusCode::SERVICE_UNAVAILABLE {
            let reason = "has no effect without status = 503";
            return Err(AnswerError::new("retry_after_secs", reason));
        }
        let retry_after = settings.retry_after_secs.map(u64::from);
        let is_always_the_same = match &content {
            AnswerContent::Body { .. } => status != StatusCode::SERVICE_UNAVAILABLE,
            // A page depends on the request: it contains the request id.
            AnswerContent::Page => false,
            AnswerContent::Path(_) | AnswerContent::Url(_) => matches!(
                status,
                StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT
            ),
        };
        Ok(Self {
            is_cacheable: is_public && is_always_the_same,
            status,
            content,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    /// Returns true if the answer tells every client that there is nothing at the address.
    pub(super) fn denies(&self) -> bool {
        matches!(
            self.status,
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    /// Returns the authority and the path to which the answer redirects. `authority` is the
    /// authority of the request. Returns `None` for an answer that is not a redirect.
    fn redirects_to(&self, authority: &str) -> Option<(String, String)> {
        match &self.content {
            AnswerContent::Path(target) => {
                let path = target.split(['?', '#']).next()?;
                Some((authority.to_owned(), path.to_owned()))
            }
            AnswerContent::Url(target) => {
                let url = Url::parse(target.to_str().ok()?).ok()?;
                let port = url.port().map(|port| format!(":{port}"));
                let authority = format!("{}{}", url.host_str()?, port.unwrap_or_default());
                Some((authority, url.path().to_owned()))
            }
            AnswerContent::Body { .. } | AnswerContent::Page => None,
        }
    }
}

impl RouteTable {
    /// Follows the redirects of a route. Returns the first route that a browser reaches for the
    /// second time. Returns `None` if the redirects end. `hosts` are the public hosts of the
    /// gateway, with their ports.
    pub(crate) fn endless_redirect<'a>(
        &'a self,
        route: &'a Route,
        hosts: &[&str],
    ) -> Option<&'a Route> {
        let mut hosts_of_route = hosts.iter().filter(|host| route.is_for_host(host));
        hosts_of_route.find_map(|host| {
            let mut host = (*host).to_owned();
            let mut reached = vec![(host.clone(), route)];
            loop {
                let (_, last) = reached.last()?;
                let (next, path) = last.answer()?.redirects_to(&host)?;
                let is_public = hosts.contains(&next.as_str());
                let mut routes = self.iter().filter(|_| is_public);
                let found = routes.find(|found| found.matches(&next, &path))?;
                let mut before = reached.iter();
                if before.any(|(host, route)| *host == next && std::ptr::eq(*route, found)) {
                    return Some(found);
                }
                host.clone_from(&next);
                reached.push((next, found));
            }
        })
    }
}

fn redirect_status(status: Option<u16>) -> Result<StatusCode, AnswerError> {
    let advice = "a redirect has the status 301, 302, 303, 307 or 308";
    known_status(status.unwrap_or(302), &[301, 302, 303, 307, 308], advice)
}

fn body_status(status: Option<u16>) -> Result<StatusCode, AnswerError> {
    let advice = "an answer with body_file has the status 200, 404, 410 or 503";
    known_status(status.unwrap_or(200), &[200, 404, 410, 503], advice)
}

fn page_status(status: Option<u16>) -> Result<StatusCode, AnswerError> {
    let advice = "without body_file and redirect, write status = 404, 410 or 503";
    known_status(status.unwrap_or(200), &[404, 410, 503], advice)
}

fn known_status(
    status: u16,
    known: &[u16],
    advice: &'static str,
) -> Result<StatusCode, AnswerError> {
    let code = StatusCode::from_u16(status).ok();
    let code = code.filter(|code| known.contains(&code.as_u16()));
    code.ok_or_else(|| AnswerError::new("status", advice))
}

fn body(file: &Path, settings: &AnswerSettings) -> Result<AnswerContent, AnswerError> {
    let media_type = settings.content_type.as_deref();
    let media_type = media_type.ok_or_else(|| {
        let reason = "is missing: write the media type of body_file, such as \"text/plain\"";
        AnswerError::new("content_type", reason)
    })?;
    let is_media_type = media_type
        .split_once('/')
        .is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty() && media_type.is_ascii());
    let value = HeaderValue::from_str(media_type).ok();
    let media_type = value.filter(|_| is_media_type).ok_or_else(|| {
        let reason = "is not a media type; write a text such as \"text/plain; charset=utf-8\"";
        AnswerError::new("content_type", reason)
    })?;
    let bytes = read(file)
        .map_err(|error| AnswerError::new("body_file", format!("{} {error}", file.display())))?;
    Ok(AnswerContent::Body { media_type, bytes })
}

/// Reads a file. The error is the rest of a sentence that begins with the path of the file.
fn read(file: &Path) -> Result<Bytes, String> {
    let read = |file: &Path| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let content = File::open(file)?;
        content
            .take(MAX_BODY.saturating_add(1))
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read(file).map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BODY) {
        return Err("is larger than 1 MiB".to_owned());
    }
    Ok(bytes.into())
}

fn redirect(target: &str) -> Result<AnswerContent, AnswerError> {
    let refuse = |reason: String| Err(AnswerError::new("redirect", reason));
    let form = "write a path such as \"/start\", or a URL such as \"https://example.com/start\"";
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse(format!(
            "`{target}` has a character that must be percent-encoded; {form}"
        ));
    }
    if target.starts_with('/') {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        return match Prefix::parse(path) {
            Ok(canonical) if canonical.as_str() == path => Ok(AnswerContent::Path(target.into())),
            Ok(canonical) => refuse(format!("write the path as `{}`", canonical.as_str())),
            Err(error) => refuse(format!("`{target}` is not a path: {error}")),
        };
    }
    match Url::parse(target) {
        Ok(url) if url.scheme() != "https" => refuse(format!("`{target}` is not https; {form}")),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            refuse(format!("`{target}` has a user name; {form}"))
        }
        // A browser corrects mistakes in a URL, so the operator might not see where the URL leads.
        Ok(url) if target.parse::<Uri>().is_err() || !is_the_same(url.as_str(), target) => {
            refuse(format!("write the URL as `{url}`"))
        }
        Ok(_) => match HeaderValue::from_str(target) {
            Ok(value) => Ok(AnswerContent::Url(value)),
            Err(_) => refuse(format!("`{target}` is not a URL; {form}")),
        },
        Err(_) => refuse(format!("`{target}` is not a path and not a URL; {form}")),
    }
}

/// Returns true if a URL is written as a browser writes it, except for the slash after the host.
fn is_the_same(url: &str, target: &str) -> bool {
    url == target || url.strip_suffix('/') == Some(target)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(settings: Value) -> Result<StaticAnswer, String> {
        let settings = serde_json::from_value(settings).map_err(|error| error.to_string())?;
        let answer = StaticAnswer::new(&settings, true);
        answer.map_err(|error| format!("{}: {error}", error.key()))
    }

    #[test]
    fn a_file_is_read_once_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("robots.txt");
        let settings = json!({ "body_file": file, "content_type": "text/plain" });
        let missing = answer(settings.clone()).unwrap_err();
        assert!(missing.starts_with("body_file: ") && missing.contains("cannot be read"));
        let most = usize::try_from(MAX_BODY).unwrap();
        std::fs::write(&file, vec![b'a'; most + 1]).unwrap();
        let large = answer(settings.clone()).unwrap_err();
        assert!(large.ends_with("is larger than 1 MiB"), "{large}");
        std::fs::write(&file, vec![b'a'; most]).unwrap();
        let read = answer(settings).unwrap();
        let AnswerContent::Body { media_type, bytes } = read.content else {
            panic!("no body")
        };
        assert_eq!(
            (media_type.as_bytes(), bytes.len()),
            (&b"text/plain"[..], most)
        );
        assert_eq!((read.status, read.is_cacheable), (StatusCode::OK, true));
    }

    #[test]
    fn a_redirect_leads_to_a_path_or_to_an_https_url() {
        for target in ["/a", "/a?b=//c#d", "https://b.test", "https://b.test/a?b#c"] {
            let redirect = answer(json!({ "redirect": target })).unwrap();
            assert_eq!(redirect.status, StatusCode::FOUND);
            assert!(!redirect.is_cacheable);
            match redirect.content {
                AnswerContent::Path(path) => assert_eq!(&*path, target),
                AnswerContent::Url(url) => assert_eq!(url, target),
                AnswerContent::Body { .. } | AnswerContent::Page => panic!("{target}"),
            }
        }
        let moved = answer(json!({ "redirect": "/a", "status": 308 })).unwrap();
        assert!(moved.is_cacheable);
    }

    #[test]
    fn e_08_a_redirect_that_a_browser_may_read_in_another_way_is_refused() {
        for (target, said) in [
            ("//evil.test", "empty segment"),
            ("/\\evil.test", "backslash"),
            ("/a/../b", "dot segment"),
            ("/%61", "write the path as `/a`"),
            ("/a b", "percent-encoded"),
            ("/ü", "percent-encoded"),
            ("/a\n", "percent-encoded"),
            ("", "not a path and not a URL"),
            ("a", "not a path and not a URL"),
            ("\\\\evil.test", "not a path and not a URL"),
            ("http://b.test/", "is not https"),
            ("javascript:alert(1)", "is not https"),
            ("https:b.test", "write the URL as `https://b.test/`"),
            ("https://b.test\\@evil.test", "write the URL as"),
            ("https://gw.test@evil.test/", "has a user name"),
            ("https://B.test/", "write the URL as `https://b.test/`"),
            ("https://b.test:443/", "write the URL as `https://b.test/`"),
            (
                "https://b.test/a/../b",
                "write the URL as `https://b.test/b`",
            ),
        ] {
            let refused = answer(json!({ "redirect": target })).unwrap_err();
            let is_named = refused.starts_with("redirect: ");
            assert!(is_named && refused.contains(said), "{target}: {refused}");
        }
    }

    #[test]
    fn settings_without_an_effect_are_refused() {
        let file = "/etc/hostname";
        for (settings, said) in [
            (json!({}), "status: without body_file and redirect"),
            (
                json!({ "status": 200 }),
                "status: without body_file and redirect",
            ),
            (
                json!({ "status": 500 }),
                "status: without body_file and redirect",
            ),
            (
                json!({ "redirect": "/a", "status": 200 }),
                "status: a redirect has",
            ),
            (
                json!({ "redirect": "/a", "status": 304 }),
                "status: a redirect has",
            ),
            (
                json!({ "redirect": "/a", "body_file": file }),
                "body_file: is written together",
            ),
            (
                json!({ "redirect": "/a", "content_type": "a/b" }),
                "content_type: has no effect",
            ),
            (
                json!({ "redirect": "/a", "retry_after_secs": 1 }),
                "retry_after_secs: has no effect",
            ),
            (
                json!({ "status": 404, "retry_after_secs": 1 }),
                "retry_after_secs: has no effect",
            ),
            (json!({ "body_file": file }), "content_type: is missing"),
            (
                json!({ "body_file": file, "content_type": "text" }),
                "content_type: is not a media",
            ),
            (
                json!({ "body_file": file, "content_type": "a/b\n" }),
                "content_type: is not a media",
            ),
            (
                json!({ "body_file": file, "content_type": "a/b", "status": 204 }),
                "status: an answer with body_file",
            ),
            (json!({ "body": "a" }), "unknown field `body`"),
        ] {
            let error = answer(settings.clone()).unwrap_err();
            assert!(error.contains(said), "{settings}: {error}");
        }
        let pause = answer(json!({ "status": 503, "retry_after_secs": 60 })).unwrap();
        assert_eq!(pause.retry_after, Some(Duration::from_mins(1)));
        assert!(!pause.is_cacheable);
        // A page contains the request id.
        for status in [404, 410] {
            let page = answer(json!({ "status": status })).unwrap();
            assert!(!page.is_cacheable, "{status}");
        }
    }
}
