//! Waits for the body of a request before the request gets a connection to its app.

use std::rc::Rc;
use std::time::Duration;

use http::header;

use super::body_buffer::{BodyBuffer, BufferSizes};
use super::request_body::{ForwardedBody, Needed};
use super::{Error, Record, RequestContext, Step, Worker, WorkerSite, grpc, kept_form};
use crate::access::{Permit, Recent, Route};
use crate::clock::Timestamp;
use crate::fields;
use crate::telemetry::DecisionLabel;

/// If the body of a request arrives later than `REDECIDE_AFTER` after the access decision, the
/// gateway makes a new access decision.
pub(super) const REDECIDE_AFTER: Duration = Duration::from_secs(1);

impl Worker {
    /// Forwards a permitted request. If the body of the request has not arrived, the gateway first
    /// buffers the body. Refuses an unsafe request that a page of another site caused. A form that
    /// the browser has kept during a login is opened before the request is forwarded.
    pub(super) fn permitted(
        &self,
        context: RequestContext,
        mut permit: (Permit, Timestamp),
        body: ForwardedBody,
        mut record: Record,
    ) -> Step<'_> {
        if is_refused_cross_site(&context, &mut permit.0) {
            record.site().warn_about_cross_site(permit.0.route());
            record.route(permit.0.route(), DecisionLabel::Forbid);
            record.user(permit.0.identity());
            return Step::answered(record.refused(&Error::CrossSite, &context.parts.headers));
        }
        if kept_form::may_arrive(&context.parts, permit.0.route()) {
            let kept = self.with_kept_form(Box::new((context, permit, body, record)));
            return Step::Later(Box::pin(kept));
        }
        self.prepared(context, permit, body, record)
    }

    /// Forwards a permitted request that contains no kept form.
    pub(super) fn prepared(
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
        let grpc = grpc::Protocol::of(&context.parts.method, &context.parts.headers);
        let prepared = prepare_body(record.site(), (grpc, route), &mut body);
        if let Err(error) = prepared {
            record.route(route, permit.0.label());
            return Step::answered(record.refused(&error, &context.parts.headers));
        }
        let buffered = request_buffer((&context, grpc), &permit.0);
        let Some((buffer, needed)) = buffered else {
            return self.forward(context, permit, body.streaming(), record);
        };
        let buffer = record.site().buffer(buffer);
        let waiting = Box::new(Waiting {
            context,
            permit,
            body,
            record,
        });
        Step::Later(Box::pin(self.forward_buffered(waiting, buffer, needed)))
    }

    /// Waits for the body of a request, and then forwards the request.
    async fn forward_buffered(
        &self,
        mut waiting: Box<Waiting>,
        buffer: BodyBuffer,
        needed: Needed,
    ) -> Step<'_> {
        waiting
            .record
            .route(waiting.permit.0.route(), waiting.permit.0.label());
        let site = Rc::clone(waiting.record.site());
        let stopwatch = site.clock().stopwatch();
        let buffered = waiting.body.buffer(buffer, needed).await;
        let Waiting {
            mut context,
            permit: (permit, now),
            body,
            mut record,
        } = *waiting;
        if let Err(failure) = buffered {
            let error = Error::from(failure);
            return Step::answered(record.refused(&error, &context.parts.headers));
        }
        // The listener has sent `100 Continue` to the client, because the gateway has read the
        // body. Therefore the app must not get the field `Expect`.
        context.parts.headers.remove(header::EXPECT);
        if site.clock().elapsed(&stopwatch) < REDECIDE_AFTER {
            return self.forward(context, (permit, now), body, record);
        }
        // During a long wait, the session may have ended, or its access token may have expired.
        drop(permit);
        let head = (&context.parts.method, &context.parts.headers);
        let now = site.clock().now();
        let decision = (site.access).decide(head, &context.target, &Recent::default(), now);
        Step::boxed(self.answer(context, decision, body, record))
    }
}

/// A permitted request whose body the gateway buffers.
struct Waiting {
    context: RequestContext,
    permit: (Permit, Timestamp),
    body: ForwardedBody,
    record: Record,
}

/// Applies the guard against requests of other sites. Returns true if the route refuses the
/// request. The setting `streams.origins` of the route decides about the handshake of a WebSocket.
pub(super) fn is_refused_cross_site(context: &RequestContext, permit: &mut Permit) -> bool {
    let upgrade = context.upgrade.as_ref();
    let is_websocket = upgrade.is_some_and(|upgrade| upgrade.is_websocket());
    !context.parts.method.is_safe()
        && !is_websocket
        && permit.refuses_cross_site(&context.parts.headers, context.public_url.origin())
}

/// Sets the limits and the trailer filter of a request body.
fn prepare_body(
    site: &Rc<WorkerSite>,
    (grpc, route): (Option<grpc::Protocol>, &Route),
    body: &mut ForwardedBody,
) -> Result<(), Error> {
    let buffered = body.buffered();
    let body = body.rest_mut();
    if grpc.is_some_and(|protocol| protocol.is_streaming_call(route)) {
        body.allow_pauses();
    }
    body.forward_trailers(|| {
        let site = Rc::clone(site);
        Box::new(move |trailers| fields::inbound_trailers(trailers, site.owned()))
    });
    let mut limit = site.settings().body_bytes;
    if route.buffers().whole_request {
        limit = limit.min(route.buffers().largest_request());
    }
    let rest = limit.saturating_sub(buffered);
    body.limit(rest).map_err(Error::RequestBody)
}

/// Returns the sizes of the buffer for a request body, and whether the whole body must arrive
/// before the request is forwarded. `None` means that the body is forwarded while it arrives. Some
/// clients wait for an answer before they send the rest of the body, for example in a gRPC call, in
/// a handshake, or after `Expect`. Unless the route sets `whole_request`, the gateway does not
/// buffer the body of a gRPC call, of a handshake or of a request with `Expect`.
fn request_buffer(
    (context, grpc): (&RequestContext, Option<grpc::Protocol>),
    permit: &Permit,
) -> Option<(BufferSizes, Needed)> {
    let RequestContext { parts, upgrade, .. } = context;
    let route = permit.route();
    let buffers = route.buffers();
    let (memory, needed) = if buffers.whole_request {
        // In the buffer, a body takes up to an eighth more memory than the length of its content.
        let overhead = buffers.request / 4;
        (buffers.request.saturating_add(overhead), Needed::Whole)
    } else {
        (buffers.request, Needed::Begin)
    };
    let may_wait = || {
        route.is_stream()
            || upgrade.is_some()
            || grpc.is_some()
            || parts.headers.contains_key(header::EXPECT)
    };
    if buffers.request == 0 || (needed == Needed::Begin && may_wait()) {
        return None;
    }
    let sizes = BufferSizes {
        memory,
        file: buffers.request_spill,
        client: permit.owner(context.client.address()),
    };
    Some((sizes, needed))
}
