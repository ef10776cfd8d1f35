//! Steps 7 and 8 of a request: sends the request to the app, and removes unsafe fields from the
//! answer.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};

use super::app_sign_out::mark_answer;
use super::request_body::{ForwardedBody, Interrupted};
use super::retry_copy::{RetryCopy, must_keep, record_for_retry};
use super::rewriting::{AnswerAddresses, redirect_to_slash};
use super::streams::{
    AnswerFormat, AnswerOwner, LongAnswer, LongAnswerSetup, ObservedStream, SlowTimer, StreamBytes,
};
use super::tunnel::Handshake;
use super::{Body, Error, Record, RequestContext, Step, Worker, explain, grpc, no_content};
use crate::access::{
    Exchanging, Permit, Recovery, Replayable, RequestClient, Route, SentRequest, StreamKind,
    TokenRefusal,
};
use crate::clock::Timestamp;
use crate::fields::request_id::X_REQUEST_ID;
use crate::fields::{self, Hops, SharedCaching, TrailerSupport};
use crate::origin;
use crate::server::BodyWatch;
use crate::session::cookie;
use crate::upload::Upload;
use crate::upstream::{self, Exchange, ResponseBody, StreamingCall};

/// The error if an app switches protocols although the request did not ask for a switch.
const UNREQUESTED: Error =
    Error::Upstream(upstream::Error::Broken(origin::Error::UnrequestedUpgrade));

/// The answer of an app.
type Answer = Response<ResponseBody>;
/// A boxed future that yields an answer. Most requests do not need a boxed future.
type BoxedAnswer<'a> = Pin<Box<dyn Future<Output = Response<Body>> + 'a>>;

/// The reason why the answer to a forwarded request needs a boxed future.
pub(super) enum Unfinished {
    /// The request takes longer than about a second.
    Slow,
    /// The app has refused the token.
    Refused(Box<Refused>),
}

/// An answer by which the app refuses a token.
pub(super) struct Refused {
    answer: Answer,
    refusal: TokenRefusal,
}

/// A forwarded request that the app has not answered yet.
pub(super) struct InFlight<'p> {
    pub(super) answer: Exchanging<'p>,
    record: Record,
    watch: BodyWatch,
    /// The client's `Accept` field. If the app gives no answer, the `Accept` field decides whether
    /// the error page is HTML.
    accept: Option<HeaderValue>,
    /// The protocol of a gRPC request. If the request fails, the protocol decides how the gateway
    /// reports the error.
    grpc: Option<grpc::Protocol>,
    /// States which trailers of the answer the client gets.
    trailers: TrailerSupport,
    /// States whether shared caches may store the answer.
    caching: SharedCaching,
    sent: Option<SentRequest>,
    retry_copy: Option<Box<RetryCopy>>,
    /// The data of the handshake, if the client asks to switch to another protocol.
    handshake: Option<Box<Handshake>>,
    /// The addresses that the gateway replaces in the answer. `None` if the answer contains no
    /// addresses that the gateway has to replace.
    addresses: Option<Box<AnswerAddresses>>,
    /// The client to which the request belongs. The queue for the app's connections distinguishes
    /// requests by client.
    client: RequestClient,
    /// The guard that ends the request when the session ends, or the values from which the gateway
    /// creates this guard. `None` if the request and its answer can continue after the session has
    /// ended.
    owner: Option<AnswerOwner>,
    timer: SlowTimer<'p>,
}

impl Worker {
    /// Performs step 7 of the list in the crate documentation, up to the wait for the app's answer.
    pub(super) fn forward(
        &self,
        mut context: RequestContext,
        (permit, now): (Permit, Timestamp),
        body: ForwardedBody,
        mut record: Record,
    ) -> Step<'_> {
        record.route(permit.route(), permit.label());
        record.user(permit.identity());
        if let Some(answer) = own_answer(&mut context, permit.route()) {
            return Step::answered(record.answered(answer));
        }
        let upgrade = context.upgrade.take();
        let checked = upgrade.as_ref().map(|upgrade| {
            Self::handshake(&context, &permit, upgrade, record.site().stream_counts())
        });
        let handshake = match checked.transpose() {
            Ok(handshake) => handshake,
            Err(error) => return Step::answered(record.refused(&error, &context.parts.headers)),
        };
        if let Some(upgrade) = &upgrade {
            upgrade.write_request(&mut context.parts.headers);
        }
        let grpc = prepare_call(&mut context.parts, permit.route());
        let accept = match prepare(&mut context, permit.route()) {
            Ok(accept) => accept,
            Err(error) => return Step::answered(record.refused(&error, &context.parts.headers)),
        };
        let addresses = AnswerAddresses::of(record.site(), permit.route(), &context.public_url);
        let (trailers, address) = (context.trailers, context.client.address());
        let watch = body.watch();
        // The gateway never sends a handshake a second time, so the client gets the app's first
        // answer.
        let sent = match &upgrade {
            Some(_) => None,
            None => permit.sent_request(),
        };
        let kept = sent
            .as_ref()
            .is_some_and(|sent| must_keep(record.site(), sent, &body, now));
        let (request, retry_copy, target) = if kept {
            record_for_retry(context, body)
        } else {
            let RequestContext { parts, target, .. } = context;
            let request = Request::from_parts(parts, Upload::streaming(body));
            (request, None, target)
        };
        let (stream, caching) = (permit.answer_stream(), permit.shared_caching());
        record.sending();
        let client = RequestClient {
            address,
            streams: grpc == Some(grpc::Protocol::Grpc) && permit.route().speaks_http2(),
        };
        Step::Sent(Box::new(InFlight {
            answer: permit.exchange(request, client, upgrade, &self.pools),
            client,
            record,
            watch,
            accept,
            grpc,
            trailers,
            caching,
            sent,
            retry_copy,
            handshake,
            addresses,
            owner: stream.map(|stream| AnswerOwner::Unguarded(stream, target)),
            timer: self.streams.slow_timer(),
        }))
    }
}

impl<'p> InFlight<'p> {
    /// Waits for the app's answer, and returns the answer for the client. If the result is an error,
    /// [`InFlight::continue_after`] returns the answer.
    pub(super) fn poll_answer(
        &mut self,
        worker: &Worker,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, Unfinished>> {
        match Pin::new(&mut self.answer).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(self.outcome(worker, answer)),
            // If `owner` is `None`, neither the end of a session nor new settings end the request,
            // so the request needs no timer.
            Poll::Pending if self.owner.is_none() => Poll::Pending,
            Poll::Pending => self.timer.poll(cx).map(|()| Err(Unfinished::Slow)),
        }
    }

    /// Returns the future of the answer, after [`InFlight::poll_answer`] has returned an error.
    pub(super) fn continue_after(
        self: Box<Self>,
        unfinished: Unfinished,
        worker: &'p Worker,
    ) -> BoxedAnswer<'p> {
        match unfinished {
            Unfinished::Slow => self.guarded(worker),
            Unfinished::Refused(refused) => self.recover(worker, *refused),
        }
    }

    /// Waits for the answer to a request that takes longer than about a second. If the session ends
    /// before the answer begins, the request ends with an error. When the gateway ends the request,
    /// the gateway also ends the client's unfinished upload.
    fn guarded(mut self: Box<Self>, worker: &'p Worker) -> BoxedAnswer<'p> {
        Box::pin(async move {
            let guard = self.owner.take().map(|owner| match owner {
                AnswerOwner::Guarded(guard) => guard,
                AnswerOwner::Unguarded(stream, target) => {
                    let streams = &worker.streams;
                    Box::new(streams.guard(stream, target, StreamKind::Answer))
                }
            });
            let answer = match guard {
                None => (&mut self.answer).await,
                Some(mut guard) => {
                    let upload = WaitingUpload(self.watch.clone());
                    let answer = tokio::select! {
                        biased;
                        answer = &mut self.answer => answer,
                        cut = guard.ended(&upload) => return self.failed(&Error::Cut(cut)),
                    };
                    self.owner = Some(AnswerOwner::Guarded(guard));
                    answer
                }
            };
            match self.outcome(worker, answer) {
                Ok(response) => response,
                Err(unfinished) => self.continue_after(unfinished, worker).await,
            }
        })
    }

    /// Returns the answer for the client. If the content of the answer is not complete yet, this
    /// function moves `self.owner` into the returned answer. If the session ends before the answer
    /// is complete, the gateway ends the answer.
    #[inline]
    fn finished(&mut self, worker: &Worker, answer: Answer) -> Response<Body> {
        let mut response = cleaned(answer, self.trailers, self.caching);
        mark_answer(&mut response, self.record.route.as_deref());
        if let Some(addresses) = &self.addresses {
            addresses.replace(response.headers_mut());
        }
        if self.owner.is_some()
            && let Some(body) = response.body_mut().take_incomplete()
            && let Some(owner) = self.owner.take()
        {
            if is_event_stream(response.headers()) {
                body.declare_stream();
            }
            let setup = LongAnswerSetup {
                body,
                buffer: (self.record).answer_buffer(owner.stream().owner(self.client.address)),
                owner,
                uploaded: self.watch.clone(),
                format: format_of(response.headers(), self.record.version()),
                started: self.record.site().clock().instant(),
            };
            *response.body_mut() = Body::long(LongAnswer::new(setup, &worker.streams));
        }
        response
    }

    /// Handles the app's answer or error.
    ///
    /// # Errors
    ///
    /// The answer, if it refuses the token.
    fn outcome(
        &mut self,
        worker: &Worker,
        answer: Result<Exchange, upstream::Error>,
    ) -> Result<Response<Body>, Unfinished> {
        let arrived = match &answer {
            Ok(Exchange::Response(answer)) => answer.body().arrived(),
            Ok(Exchange::Tunnel(_)) | Err(_) => None,
        };
        self.record.upstream_answered(arrived);
        let answer = match answer {
            Ok(Exchange::Response(answer)) => answer,
            Ok(Exchange::Tunnel(tunnel)) => return Ok(self.switched(worker, *tunnel)),
            Err(error) => {
                let error = self.upstream_failure(error);
                return Ok(self.failed(&error));
            }
        };
        self.record.informational(answer.extensions());
        let refused = self.sent.take().and_then(|sent| {
            let access = &self.record.site().access;
            access.token_refusal(sent, answer.status(), answer.headers())
        });
        match refused {
            None => {
                let mut response = self.finished(worker, answer);
                self.record.answer(&mut response);
                Ok(response)
            }
            Some(refusal) => {
                self.record.not_final();
                Err(Unfinished::Refused(Box::new(Refused { answer, refusal })))
            }
        }
    }

    /// Returns the answer to a handshake after which the app has switched the protocol.
    fn switched(&mut self, worker: &Worker, tunnel: upstream::UpgradedOrigin) -> Response<Body> {
        match self.handshake.take() {
            Some(handshake) => {
                let mut response = worker.switched(*handshake, tunnel);
                if let Some(addresses) = &self.addresses {
                    addresses.replace(response.headers_mut());
                }
                self.record.answered(response)
            }
            // Only an answer to a handshake may open a tunnel.
            None => self.failed(&UNREQUESTED),
        }
    }

    /// Returns the error for a request whose exchange with the app has failed.
    fn upstream_failure(&self, error: upstream::Error) -> Error {
        if let upstream::Error::Evicted(eviction) = error {
            self.record.evicted(eviction);
        }
        // If the request body failed, only this failure is reported, because the failure also
        // caused the error of the upstream.
        let failure = self.watch.failure();
        failure.map_or_else(|| upload_error(error), Error::RequestBody)
    }

    fn failed(&mut self, error: &Error) -> Response<Body> {
        let accept = self.accept.take();
        let accept = accept.map(|accept| (header::ACCEPT, accept));
        let grpc = self.grpc;
        let kind = grpc.map(|protocol| (header::CONTENT_TYPE, protocol.content_type()));
        let id = (X_REQUEST_ID, self.record.request_id().clone());
        let headers = accept.into_iter().chain(kind).chain([id]).collect();
        self.record.refused(error, &headers)
    }

    /// Answers a request whose token the app refuses: with the app's answer, with the answer to a
    /// second attempt, or with a login.
    fn recover(mut self: Box<Self>, worker: &'p Worker, refused: Refused) -> BoxedAnswer<'p> {
        let Refused { answer, refusal } = refused;
        let (kept, body) = match self.retry_copy.take().map(|retry_copy| *retry_copy) {
            Some(RetryCopy {
                context,
                head,
                body,
            }) => (Some((context, head)), body.replay()),
            None => (None, None),
        };
        let replayable = match body {
            Some(_) => Replayable::Yes,
            None => Replayable::No,
        };
        Box::pin(async move {
            let response = match (refusal.recover(replayable).await, kept, body) {
                (Recovery::Retry(permit), Some((context, head)), Some(body)) => {
                    // Some apps accept only one connection. The first answer is dropped, so that
                    // its connection is free for the second attempt.
                    drop(answer);
                    let request = Request::from_parts(head.into_parts(), body);
                    let stream = permit.answer_stream();
                    self.owner =
                        stream.map(|stream| AnswerOwner::Unguarded(stream, context.target));
                    self.record.sending();
                    self.answer = permit.exchange(request, self.client, None, &worker.pools);
                    self.timer = worker.streams.slow_timer();
                    return Step::Sent(self).finish(worker).await;
                }
                (Recovery::SignIn(challenge), Some((mut context, head)), _) => {
                    drop(answer);
                    context.parts.headers = head.into_parts().headers;
                    self.record.reason(challenge.cause.reason());
                    let site = Rc::clone(self.record.site());
                    site.challenge(&context, &challenge).await
                }
                (Recovery::Unavailable(unavailable), Some((mut context, head)), _) => {
                    drop(answer);
                    context.parts.headers = head.into_parts().headers;
                    self.record.reason(unavailable.reason);
                    let own = self.record.site().own();
                    explain::refused_and_unavailable((&context, own), &unavailable)
                }
                (
                    Recovery::Pass
                    | Recovery::Retry(_)
                    | Recovery::SignIn(_)
                    | Recovery::Unavailable(_),
                    ..,
                ) => self.finished(worker, answer),
            };
            self.record.answered(response)
        })
    }
}

/// Returns the error for a request to which the app gave no answer.
fn upload_error(error: upstream::Error) -> Error {
    if let upstream::Error::RequestBody(cause) = error {
        return match cause.downcast::<Interrupted>() {
            Ok(interrupted) => Error::from(*interrupted),
            Err(cause) => Error::Upstream(upstream::Error::RequestBody(cause)),
        };
    }
    Error::Upstream(error)
}

/// Returns the gateway's own answer to a permitted request, if the app must not get the request.
pub(super) fn own_answer(context: &mut RequestContext, route: &Route) -> Option<Response<Body>> {
    // A request whose `Max-Forwards` is 0 must not be forwarded.
    if fields::count_hop(&context.parts.method, &mut context.parts.headers) == Hops::Answer {
        return Some(no_content());
    }
    redirect_to_slash(context, route)
}

/// Returns the protocol of a gRPC request.
fn prepare_call(parts: &mut Parts, route: &Route) -> Option<grpc::Protocol> {
    let protocol = grpc::Protocol::of(&parts.method, &parts.headers)?;
    if protocol.is_streaming_call(route) {
        parts.extensions.insert(StreamingCall);
    }
    Some(protocol)
}

/// Prepares the head of the request for the app. The permit adds the assertion fields later.
/// Returns the client's `Accept` field.
pub(super) fn prepare(
    context: &mut RequestContext,
    route: &Route,
) -> Result<Option<HeaderValue>, Error> {
    let RequestContext {
        parts,
        target,
        client,
        ..
    } = context;
    let accept = parts.headers.get(header::ACCEPT).cloned();
    fields::append_via(&mut parts.headers, parts.version)?;
    // The app gets the canonical authority that the gateway has checked, instead of the authority
    // that the client sent.
    let authority = target.authority_value();
    if !target.is_host_field() {
        parts.headers.insert(header::HOST, authority.clone());
    }
    client.write(&mut parts.headers, authority);
    parts.uri = Uri::from(route.forwarded(target)?);
    Ok(accept)
}

/// The upload of a request that the app has not answered yet. The stream guard of the request gets
/// the number of uploaded bytes from `WaitingUpload`.
struct WaitingUpload(BodyWatch);

impl ObservedStream for WaitingUpload {
    fn bytes(&self) -> StreamBytes {
        StreamBytes {
            from_client: self.0.bytes(),
            from_app: 0,
        }
    }
}

/// Whether an answer with these fields consists of server-sent events.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let kind = value.and_then(|value| value.as_bytes().split(|byte| *byte == b';').next());
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// Returns the format of an answer, which determines how the gateway ends the answer early.
/// `headers` are the fields of the answer, and `version` is the HTTP version of the request. Only
/// HTTP/2 can carry gRPC.
fn format_of(headers: &HeaderMap, version: Version) -> AnswerFormat {
    match grpc::Protocol::of(&Method::POST, headers) {
        Some(grpc::Protocol::Grpc) if version == Version::HTTP_2 => AnswerFormat::Grpc,
        // A gRPC-Web client expects trailers in the body. A gRPC-Web client would mistake an answer
        // that ends with HTTP trailers for a complete answer.
        Some(grpc::Protocol::Grpc | grpc::Protocol::Web | grpc::Protocol::WebText) | None => {
            AnswerFormat::Other
        }
    }
}

/// Returns the answer for the client, without fields that an app must not send.
#[inline]
fn cleaned(mut answer: Answer, trailers: TrailerSupport, caching: SharedCaching) -> Response<Body> {
    fields::outbound(answer.headers_mut(), caching, cookie::is_own);
    let forwarded = match trailers {
        TrailerSupport::All => true,
        TrailerSupport::Announced => answer.headers().contains_key(header::TRAILER),
        TrailerSupport::None => false,
    };
    if forwarded {
        answer.body_mut().forward_trailers();
    }
    let mut response = answer.map(Body::upstream);
    // The app's answer contains the HTTP version of the connection to the app. The connection to
    // the client can use a different HTTP version than the connection to the app.
    *response.version_mut() = Version::HTTP_11;
    response
}
