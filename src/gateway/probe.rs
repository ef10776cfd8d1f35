//! The health checks of load balancers that can reach only the public listener.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use super::{Body, WorkerSite};

/// The paths of the health checks. By default, the app gets the requests for all paths.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes {
    /// The path at which the gateway answers 200 unless only a restart can repair the process.
    pub(crate) ping: Option<Box<str>>,
    /// The path at which the gateway answers 200 while the process accepts new requests.
    pub(crate) ready: Option<Box<str>>,
}

/// A health check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Probe {
    Ping,
    Ready,
}

impl Probes {
    /// Returns the health check that a request asks for. The path must have exactly the spelling of
    /// the settings. A request with another spelling is an ordinary request.
    pub(super) fn asked(&self, method: &Method, path: &str) -> Option<Probe> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        let is = |probe: &Option<Box<str>>| probe.as_deref() == Some(path);
        if is(&self.ping) {
            Some(Probe::Ping)
        } else if is(&self.ready) {
            Some(Probe::Ready)
        } else {
            None
        }
    }
}

impl WorkerSite {
    /// Answers a health check. Returns `None` if the request is not a health check.
    ///
    /// A load balancer often sends its health checks without TLS and with an address as the host, so
    /// the gateway checks neither. The answer depends on nothing in the request.
    #[inline]
    pub(super) fn answer_probe(&self, parts: &Parts) -> Option<Response<Body>> {
        let probes = self.settings().probes.as_ref()?;
        let probe = probes.asked(&parts.method, parts.uri.path())?;
        let readiness = self.readiness();
        let is_good = match probe {
            Probe::Ping => !readiness.is_broken(),
            Probe::Ready => readiness.is_ready(),
        };
        Some(answer(is_good))
    }
}

fn answer(is_good: bool) -> Response<Body> {
    let (status, text) = if is_good {
        (StatusCode::OK, "OK\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    };
    let mut response = Response::new(Body::own(text.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_exactly_the_path_of_the_settings() {
        let probes = Probes {
            ping: Some("/ping".into()),
            ready: None,
        };
        assert_eq!(probes.asked(&Method::GET, "/ping"), Some(Probe::Ping));
        assert_eq!(probes.asked(&Method::HEAD, "/ping"), Some(Probe::Ping));
        assert_eq!(probes.asked(&Method::POST, "/ping"), None);
        for path in ["/", "/ping/", "/PING", "/%70ing", "/ping/x", "/ready", ""] {
            assert_eq!(probes.asked(&Method::GET, path), None, "{path}");
        }
    }

    #[test]
    fn the_answer_states_whether_the_process_is_good() {
        assert_eq!(answer(true).status(), StatusCode::OK);
        assert_eq!(answer(false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
