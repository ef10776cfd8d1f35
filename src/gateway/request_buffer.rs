//! Waits for the body of a request before the request gets a connection to its app.

use std::rc::Rc;
use std::time::Duration;

use http::{Response, header};

use super::forward::is_streaming_call;
use super::request_body::ForwardedBody;
use super::{Body, Error, Record, RequestContext, Step, Worker, WorkerSite, grpc};
use crate::access::{Permit, Recent, Route};
use crate::clock::Timestamp;
use crate::fields;
use crate::server::RequestBody;
use crate::telemetry::DecisionLabel;

/// If the body of a request arrives later than `REDECIDE_AFTER` after the decision, the gateway
/// makes a new decision about the request.
const REDECIDE_AFTER: Duration = Duration::from_secs(1);

impl Worker {
    /// Forwards a permitted request. If the body of the request has not arrived, the gateway first
    /// buffers the body.
    pub(super) fn permitted(
        &self,
        context: RequestContext,
        permit: (Permit, Timestamp),
        mut body: ForwardedBody,
        mut record: Record,
    ) -> Step<'_> {
        if body.is_ready() {
            return self.forward(context, permit, body, record);
        }
        let route = permit.0.route();
        let prepared = prepare_body(record.site(), (&context, route), body.rest_mut());
        if let Err(error) = prepared {
            record.route(route, DecisionLabel::Permit);
            return Step::answered(record.refused(&error, &context.parts.headers));
        }
        match request_buffer(&context, route) {
            0 => self.forward(context, permit, body.streaming(), record),
            limit => Step::boxed(self.forward_buffered(context, permit, (body, limit), record)),
        }
    }

    /// Waits for the body of a request, and then forwards the request. The buffer may contain at
    /// most `limit` bytes of `body`.
    async fn forward_buffered(
        &self,
        context: RequestContext,
        (permit, now): (Permit, Timestamp),
        (body, limit): (ForwardedBody, usize),
        mut record: Record,
    ) -> Response<Body> {
        record.route(permit.route(), DecisionLabel::Permit);
        let site = Rc::clone(record.site());
        let client = permit.owner(context.client.address());
        let reservation = site.reservation(client);
        let body = match body.buffered(limit, reservation).await {
            Ok(body) => body,
            Err(failure) => {
                let error = Error::RequestBody(failure);
                return record.refused(&error, &context.parts.headers);
            }
        };
        let later = site.clock().now();
        if later.since(now) < REDECIDE_AFTER {
            let sent = self.forward(context, (permit, now), body, record);
            return sent.finish(self).await;
        }
        // During a long wait, the session may have ended, or its access token may have expired.
        drop(permit);
        let head = (&context.parts.method, &context.parts.headers);
        let decision = (site.access).decide(head, &context.target, &Recent::default(), later);
        self.answer(context, decision, body, record).await
    }
}

/// Sets the limits and the trailer filter of a request body.
fn prepare_body(
    site: &Rc<WorkerSite>,
    (context, route): (&RequestContext, &Route),
    body: &mut RequestBody,
) -> Result<(), Error> {
    let protocol = grpc::Protocol::of(&context.parts.method, &context.parts.headers);
    if protocol.is_some_and(|protocol| is_streaming_call(protocol, route)) {
        body.allow_pauses();
    }
    body.forward_trailers(|| {
        let site = Rc::clone(site);
        Box::new(move |trailers| fields::inbound_trailers(trailers, site.owned()))
    });
    let limited = body.limit(site.settings().body_bytes);
    limited.map_err(Error::RequestBody)
}

/// Returns the size of the buffer for the body of a request, in bytes. Zero means that the body is
/// forwarded while the body arrives. The size of the buffer is zero if the client may wait for an
/// answer before the client sends the rest of the body. For example, the client may wait for an
/// answer during a gRPC call, during a handshake, or after a request with `Expect`.
fn request_buffer(context: &RequestContext, route: &Route) -> usize {
    let RequestContext { parts, upgrade, .. } = context;
    let may_wait = route.is_stream()
        || upgrade.is_some()
        || parts.headers.contains_key(header::EXPECT)
        || grpc::Protocol::of(&parts.method, &parts.headers).is_some();
    if may_wait { 0 } else { route.buffers().request }
}
