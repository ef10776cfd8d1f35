//! The operations listener: health, readiness and metrics.
//!
//! The operations listener has its own address and is separate from the public listener. A request
//! to the operations listener changes nothing, and no answer contains a secret. No answer of the
//! operations listener depends on a provider, because signed-in users can still use the apps during
//! an outage of a provider. If only a restart can repair the process, both `/healthz` and `/readyz`
//! answer with 503.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use crate::server::{Connection, Handler, Readiness, RequestBody};
use crate::telemetry::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";

/// The handler of the operations listener.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

impl Admin {
    /// Creates a handler that reports `metrics` and `readiness`.
    pub(crate) fn new(metrics: Arc<Metrics>, readiness: Readiness) -> Self {
        Self { metrics, readiness }
    }

    fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n");
        }
        match path {
            "/healthz" if self.readiness.is_broken() => {
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "broken\n")
            }
            "/healthz" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" if self.readiness.is_ready() => answer(StatusCode::OK, TEXT, "ready\n"),
            "/readyz" => {
                let text = match self.readiness.stalled_workers() {
                    0 => "not ready\n".to_owned(),
                    stalled => format!("not ready: workers that stand still: {stalled}\n"),
                };
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
            "/metrics" => {
                const OPEN_METRICS: &str =
                    "application/openmetrics-text; version=1.0.0; charset=utf-8";
                answer(StatusCode::OK, OPEN_METRICS, self.metrics.encode())
            }
            _ => answer(
                StatusCode::NOT_FOUND,
                TEXT,
                "try /healthz, /readyz or /metrics\n",
            ),
        }
    }
}

impl Handler for Admin {
    type Body = Full<Bytes>;
    type PerConnection = ();

    fn connection_opened(&self, _connection: Connection) {}

    async fn handle(&self, (): &(), head: Parts, _body: RequestBody) -> Response<Full<Bytes>> {
        self.respond(&head.method, head.uri.path())
    }

    fn refuse_head(&self, (): &(), _head: Parts, _body: RequestBody) -> Response<Full<Bytes>> {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        answer(status, TEXT, "the head of the request is too large\n")
    }
}

fn answer(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn admin() -> (Admin, Readiness) {
        let readiness = Readiness::default();
        let metrics = Arc::new(Metrics::default());
        (Admin::new(metrics, readiness.clone()), readiness)
    }

    #[test]
    fn readiness_follows_the_process_state_and_health_does_not() {
        let (admin, readiness) = admin();
        let status = |path| admin.respond(&Method::GET, path).status().as_u16();
        assert_eq!((status("/healthz"), status("/readyz")), (200, 503));
        readiness.mark_ready();
        assert_eq!((status("/healthz"), status("/readyz")), (200, 200));
        readiness.mark_draining();
        assert_eq!((status("/healthz"), status("/readyz")), (200, 503));
    }

    #[tokio::test]
    async fn the_answer_states_how_many_workers_stand_still() {
        let (admin, readiness) = admin();
        readiness.mark_ready();
        readiness.set_stalled_workers(2);
        let response = admin.respond(&Method::GET, "/readyz");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "not ready: workers that stand still: 2\n");
        assert_eq!(
            admin.respond(&Method::GET, "/healthz").status(),
            StatusCode::OK
        );
    }

    #[test]
    fn a_broken_process_is_neither_ready_nor_healthy() {
        let (admin, readiness) = admin();
        assert!(!readiness.mark_broken());
        readiness.mark_ready();
        assert!(readiness.mark_broken());
        assert!(!readiness.mark_broken());
        readiness.mark_ready();
        let status = |path| admin.respond(&Method::GET, path).status().as_u16();
        assert_eq!((status("/healthz"), status("/readyz")), (503, 503));
        // A draining process is never marked as broken.
        let (_, readiness) = self::admin();
        readiness.mark_ready();
        readiness.mark_draining();
        assert!(!readiness.mark_broken());
    }

    #[test]
    fn adv_cve_2022_24797_no_other_path_has_content() {
        let (admin, _) = admin();
        for path in ["/", "/debug/pprof", "/pprof", "/config", "/metrics/x"] {
            assert_eq!(
                admin.respond(&Method::GET, path).status(),
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
        let post = admin.respond(&Method::POST, "/metrics");
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
