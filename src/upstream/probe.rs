//! Checks of an app over the network, for the command `sidegate check --online`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};

use super::{Error, Pools, Upstream};
use crate::clock::Clock;
use crate::origin::{self, Findings, Owner, Reached, Requester};
use crate::telemetry::chain;
use crate::upload::Upload;

impl Upstream {
    /// Connects to the app, sends a GET request for the start page of the app with the `Host` field
    /// `host`, and reports the answer. The caller has to be in a runtime that can spawn local tasks.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If the future is dropped, `findings` contains the findings of the completed
    /// steps.
    pub(crate) async fn probe(
        self: &Arc<Self>,
        host: HeaderValue,
        clock: &Clock,
        findings: &mut Findings,
    ) {
        let reached = self.connector.probe("url", clock.now(), findings).await;
        if reached == Reached::No {
            return;
        }
        let shown = String::from_utf8_lossy(host.as_bytes()).into_owned();
        let path = format!("{}/", self.base().without_slash());
        findings.begin("url", format!("the answer to GET {path}"));
        let mut request = Request::new(Upload::empty());
        // The path is canonical, so the conversion never fails.
        *request.uri_mut() = Uri::try_from(&path).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("sidegate-check"));
        let pools = Pools::new(clock.clone());
        let requester = Requester {
            owner: Owner::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            stream: false,
        };
        match pools.send(self, requester, request).await {
            Ok(response) => {
                let status = response.status();
                let text = format!("the app answers GET {path} with status {}", status.as_u16());
                match status {
                    StatusCode::BAD_REQUEST | StatusCode::MISDIRECTED_REQUEST => findings.warning(
                        "preserve_host",
                        format!("{text}; perhaps the app does not accept the host {shown}"),
                    ),
                    status if status.is_server_error() => findings.warning("url", text),
                    _ => findings.good("url", text),
                }
            }
            Err(error) => {
                let other_protocol = matches!(
                    error,
                    Error::Broken(origin::Error::NoHttp2(_) | origin::Error::Broken(_))
                );
                let key = if other_protocol { "protocol" } else { "url" };
                findings.problem(key, format!("GET {path} has no answer: {}", chain(&error)));
            }
        }
    }
}
