//! Steps 7 and 8 of the walk: strip is done, so inject and send, and clean the answer.

use std::pin::Pin;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body as _;
use tokio::time::Instant;

use super::{Body, Error, Record, Step, Visit, Worker, WorkerSite, no_content};
use crate::access::{Content, Permit, Recovery, Refused, Replayable, Sent};
use crate::clock::Timestamp;
use crate::fields::{self, Hops};
use crate::server::{BodyWatch, RequestBody};
use crate::session::cookie;
use crate::telemetry::Decided;
use crate::upload::{Recording, Upload};
use crate::upstream::{self, Answering, KeptHead, ResponseBody};

/// An app's answer, as it comes.
type Answer = Response<ResponseBody>;
/// The rest of a walk that takes a rare way.
type Rare<'a> = Pin<Box<dyn Future<Output = Response<Body>> + 'a>>;

/// What becomes of a request once its app has answered, or will not answer.
pub(super) enum Came<'a> {
    /// This is the answer to the client.
    Answered(Response<Body>),
    /// The app refuses the token: another answer follows, or a login.
    GoesOn(Rare<'a>),
}

/// What is kept of a request that may be worth sending once more.
struct Spare {
    visit: Visit,
    head: KeptHead,
    body: Recording,
}

/// A request on its way to its app and back.
pub(super) struct Errand {
    pub(super) answer: Answering,
    since: Instant,
    record: Record,
    watch: BodyWatch,
    /// What is needed to word an answer of our own, should the upstream give none.
    accept: Option<HeaderValue>,
    sent: Option<Sent>,
    spare: Option<Box<Spare>>,
}

impl Worker {
    /// Steps 7 and 8, up to where the app is waited for.
    pub(super) fn forward(
        &self,
        mut visit: Visit,
        (permit, now): (Permit, Timestamp),
        mut body: RequestBody,
        mut record: Record,
    ) -> Step<'_> {
        record.route(permit.route(), Decided::Permit);
        if fields::count_hop(&visit.parts.method, &mut visit.parts.headers) == Hops::Answer {
            return Step::answered(record.closed(no_content()));
        }
        let limited = body.limit(record.site().settings().body_bytes);
        let prepared = limited
            .map_err(Error::RequestBody)
            .and_then(|()| prepare(&mut visit));
        let accept = match prepared {
            Ok(accept) => accept,
            Err(error) => return Step::answered(record.refused(&error, &visit.parts.headers)),
        };
        let watch = body.watch();
        let sent = permit.sent();
        let kept = sent
            .as_ref()
            .is_some_and(|sent| keeps(record.site(), sent, &body, now));
        let (parts, body, spare) = if kept {
            let (body, notes) = Upload::recorded(body);
            let head = KeptHead::of(&visit.parts);
            let (mut rest, ()) = Request::new(()).into_parts();
            rest.method = visit.parts.method.clone();
            let parts = std::mem::replace(&mut visit.parts, rest);
            let spare = Spare {
                visit,
                head,
                body: notes,
            };
            (parts, body, Some(Box::new(spare)))
        } else {
            (visit.parts, Upload::streaming(body), None)
        };
        let since = record.site().clock().instant();
        let request = Request::from_parts(parts, body);
        Step::Sent(Errand {
            answer: permit.exchange(request, &self.pools),
            since,
            record,
            watch,
            accept,
            sent,
            spare,
        })
    }
}

/// Whether a request is kept because it may have to be sent once more.
fn keeps(site: &WorkerSite, sent: &Sent, body: &RequestBody, now: Timestamp) -> bool {
    let content = if body.is_end_stream() {
        Content::None
    } else {
        Content::Some
    };
    site.access.keeps(sent, content, now)
}

impl Errand {
    /// The app has answered, or will not. Of an answer that refuses the token comes another, or a
    /// login, in a while.
    pub(super) fn came<'e>(
        &'e mut self,
        worker: &'e Worker,
        answer: Result<Answer, upstream::Error>,
    ) -> Came<'e> {
        let answer = match self.noted(answer) {
            Ok(answer) => answer,
            Err(error) => return Came::Answered(self.failed(&error)),
        };
        let refused = self.sent.take().and_then(|sent| {
            let access = &self.record.site().access;
            access.refused(sent, answer.status(), answer.headers())
        });
        match refused {
            None => Came::Answered(self.record.closed(cleaned(answer))),
            Some(refused) => {
                self.record.goes_on();
                Came::GoesOn(self.recover(worker, answer, refused))
            }
        }
    }

    /// Writes down how long the app took.
    fn noted(&mut self, answer: Result<Answer, upstream::Error>) -> Result<Answer, Error> {
        self.record.at_upstream(self.since);
        answer.map_err(|error| {
            let failure = self.watch.failure();
            failure.map_or_else(|| Error::Upstream(error), Error::RequestBody)
        })
    }

    fn failed(&mut self, error: &Error) -> Response<Body> {
        let accept = self.accept.take();
        let headers = accept.map(|accept| (header::ACCEPT, accept));
        self.record.refused(error, &HeaderMap::from_iter(headers))
    }

    /// Answers a request whose token the app refuses: with that answer, with another one, or by a
    /// login.
    fn recover<'e>(&'e mut self, worker: &'e Worker, answer: Answer, refused: Refused) -> Rare<'e> {
        let (kept, body) = match self.spare.take().map(|spare| *spare) {
            Some(Spare { visit, head, body }) => (Some((visit, head)), body.again()),
            None => (None, None),
        };
        let replayable = match body {
            Some(_) => Replayable::Yes,
            None => Replayable::No,
        };
        Box::pin(async move {
            let response = match (refused.recover(replayable).await, kept, body) {
                (Recovery::Again(permit), Some((_visit, head)), Some(body)) => {
                    // The app may have no other connection for the second time.
                    drop(answer);
                    let request = Request::from_parts(head.into_parts(), body);
                    self.since = self.record.site().clock().instant();
                    let answer = permit.exchange(request, &worker.pools).await;
                    match self.noted(answer) {
                        Ok(answer) => cleaned(answer),
                        Err(error) => return self.failed(&error),
                    }
                }
                (Recovery::SignIn(challenge), Some((mut visit, head)), _) => {
                    drop(answer);
                    visit.parts.headers = head.into_parts().headers;
                    self.record.reason = Some(challenge.cause.reason());
                    let site = Rc::clone(self.record.site());
                    site.challenge(&visit, &challenge).await
                }
                (Recovery::Pass | Recovery::Again(_) | Recovery::SignIn(_), ..) => cleaned(answer),
            };
            self.record.closed(response)
        })
    }
}

/// Prepares the request's head for the app. The permit adds its fields later. Returns what the client
/// takes as an answer.
fn prepare(visit: &mut Visit) -> Result<Option<HeaderValue>, Error> {
    let Visit {
        parts,
        target,
        client,
        ..
    } = visit;
    let accept = parts.headers.get(header::ACCEPT).cloned();
    fields::append_via(&mut parts.headers, parts.version)?;
    let authority = target.authority_value();
    parts.headers.insert(header::HOST, authority.clone());
    client.write(&mut parts.headers, authority);
    parts.uri = Uri::from(target.path_and_query().clone());
    Ok(accept)
}

/// The answer as the client gets it.
fn cleaned(answer: Answer) -> Response<Body> {
    let mut response = answer.map(Body::upstream);
    fields::outbound(response.headers_mut(), cookie::is_own);
    *response.version_mut() = Version::HTTP_11;
    response
}
