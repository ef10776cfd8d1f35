//! Steps 7 and 8 of the walk: strip is done, so inject and send, and clean the answer.

use http::request::Parts;
use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body as _;

use super::{Body, Error, Record, Visit, Worker, no_content};
use crate::access::{Content, Permit, Recovery, Refused, Replayable, Sent};
use crate::fields::{self, Hops};
use crate::server::{BodyWatch, RequestBody};
use crate::session::cookie;
use crate::upstream::{KeptHead, Recording, Replay, ResponseBody};

/// An app's answer, as it comes.
type Answer = Response<ResponseBody<Replay<RequestBody>>>;

/// What is kept of a request that may be worth sending once more.
struct Spare {
    head: KeptHead,
    body: Recording,
}

/// A request on its way to its app and back.
struct Errand<'v, 'r, 'a> {
    visit: Visit<'v>,
    record: &'r mut Record<'a>,
    watch: BodyWatch,
    /// What is needed to word an answer of our own, should the upstream give none.
    accept: Option<HeaderValue>,
}

impl Worker {
    /// Steps 7 and 8.
    pub(super) async fn forward<'a>(
        &'a self,
        mut visit: Visit<'_>,
        permit: Permit<'a>,
        mut body: RequestBody,
        record: &mut Record<'a>,
    ) -> Result<Response<Body>, Error> {
        let gateway = &*self.gateway;
        if fields::count_hop(&visit.parts.method, &mut visit.parts.headers) == Hops::Answer {
            return Ok(no_content());
        }
        body.limit(gateway.settings.body_bytes)
            .map_err(Error::RequestBody)?;
        let watch = body.watch();
        let accept = visit.parts.headers.get(header::ACCEPT).cloned();
        let parts = outgoing(&mut visit)?;
        let mut errand = Errand {
            visit,
            record,
            watch,
            accept,
        };
        let sent = permit.sent();
        let kept = sent.as_ref().is_some_and(|sent| self.keeps(sent, &body));
        let (body, spare) = if kept {
            let (body, notes) = Replay::noted(body);
            let head = KeptHead::of(&parts);
            (body, Some(Spare { head, body: notes }))
        } else {
            (Replay::once(body), None)
        };
        let request = Request::from_parts(parts, body);
        let answer = self.send(permit, request, &mut errand).await?;
        let refused = sent.and_then(|sent| {
            let access = &gateway.access;
            access.refused(sent, answer.status(), answer.headers())
        });
        match refused {
            None => Ok(cleaned(answer)),
            // Rare and large: kept out of every request's own state.
            Some(refused) => Box::pin(self.recover(answer, refused, spare, errand)).await,
        }
    }

    /// Whether a request may have to be sent once more.
    fn keeps(&self, sent: &Sent<'_>, body: &RequestBody) -> bool {
        let content = if body.is_end_stream() {
            Content::None
        } else {
            Content::Some
        };
        let now = self.gateway.clock.now();
        self.gateway.access.keeps(sent, content, now)
    }

    /// Sends a request on.
    fn send(
        &self,
        permit: Permit<'_>,
        request: Request<Replay<RequestBody>>,
        errand: &mut Errand<'_, '_, '_>,
    ) -> impl Future<Output = Result<Answer, Error>> {
        let gateway = &*self.gateway;
        let since = gateway.clock.instant();
        let answer = permit.forward(request, &self.pools, &gateway.settings.assertions);
        async move {
            let answer = answer.await;
            let took = gateway.clock.instant().saturating_duration_since(since);
            errand.record.at_upstream(took);
            answer.map_err(|error| {
                let accept = errand.accept.take();
                let headers = &mut errand.visit.parts.headers;
                headers.extend(accept.map(|accept| (header::ACCEPT, accept)));
                let failure = errand.watch.failure();
                failure.map_or_else(|| Error::Upstream(error), Error::RequestBody)
            })
        }
    }

    /// Answers a request whose token the app refuses: with that answer, with another one, or by a
    /// login.
    async fn recover<'a>(
        &'a self,
        answer: Answer,
        refused: Refused<'a>,
        spare: Option<Spare>,
        mut errand: Errand<'_, '_, 'a>,
    ) -> Result<Response<Body>, Error> {
        let (head, body) = match spare {
            Some(Spare { head, body }) => (Some(head), body.again()),
            None => (None, None),
        };
        let replayable = match body {
            Some(_) => Replayable::Yes,
            None => Replayable::No,
        };
        match (refused.recover(replayable).await, head, body) {
            (Recovery::Again(permit), Some(head), Some(body)) => {
                // The app may have no other connection for the second time.
                drop(answer);
                let request = Request::from_parts(head.into_parts(), body);
                Ok(cleaned(self.send(permit, request, &mut errand).await?))
            }
            (Recovery::SignIn(challenge), Some(head), _) => {
                drop(answer);
                let Errand { visit, record, .. } = errand;
                visit.parts.headers = head.into_parts().headers;
                record.reason = Some(challenge.cause.reason());
                Ok(self.gateway.challenge(&visit, &challenge).await)
            }
            (Recovery::Pass | Recovery::Again(_) | Recovery::SignIn(_), ..) => Ok(cleaned(answer)),
        }
    }
}

/// The head of the app's request, but for what the permit writes.
fn outgoing(visit: &mut Visit<'_>) -> Result<Parts, Error> {
    let Visit {
        parts,
        target,
        client,
        ..
    } = visit;
    let version = parts.version;
    fields::append_via(&mut parts.headers, version)?;
    let authority = target.authority_value();
    parts.headers.insert(header::HOST, authority.clone());
    client.write(&mut parts.headers, authority);
    let (mut outgoing, ()) = Request::new(()).into_parts();
    outgoing.method = parts.method.clone();
    outgoing.uri = Uri::from(target.path_and_query().clone());
    outgoing.headers = std::mem::take(&mut parts.headers);
    Ok(outgoing)
}

/// The answer as the client gets it.
fn cleaned(answer: Answer) -> Response<Body> {
    let mut response = answer.map(Body::upstream);
    fields::outbound(response.headers_mut(), cookie::is_own);
    *response.version_mut() = Version::HTTP_11;
    response
}
