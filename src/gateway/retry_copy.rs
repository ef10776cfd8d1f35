//! The copy of a request that the gateway keeps for a second attempt. The gateway sends a request a
//! second time if the app has refused the token of the first attempt.

use http::Request;

use super::request_body::ForwardedBody;
use super::{RequestContext, WorkerSite};
use crate::access::{Content, SentRequest};
use crate::clock::Timestamp;
use crate::target::Target;
use crate::upload::{Recording, Upload};
use crate::upstream::SavedHead;

/// The parts of a request that are kept for a second attempt.
pub(super) struct RetryCopy {
    pub(super) context: RequestContext,
    pub(super) head: SavedHead,
    pub(super) body: Recording,
}

/// Returns the request for the first attempt, and a copy for a second attempt. The body of the
/// first attempt records its bytes for the second attempt.
pub(super) fn record_for_retry(
    mut context: RequestContext,
    body: ForwardedBody,
) -> (Request<Upload>, Option<Box<RetryCopy>>, Target) {
    let (body, notes) = Upload::recorded(body);
    let head = SavedHead::of(&context.parts);
    // `RetryCopy::head` contains the fields of the request, so `RetryCopy::context` needs only the
    // method.
    let (mut rest, ()) = Request::new(()).into_parts();
    rest.method = context.parts.method.clone();
    let parts = std::mem::replace(&mut context.parts, rest);
    let target = context.target.clone();
    let retry_copy = RetryCopy {
        context,
        head,
        body: notes,
    };
    let request = Request::from_parts(parts, body);
    (request, Some(Box::new(retry_copy)), target)
}

/// Whether the gateway has to keep a copy of a request for a second attempt.
pub(super) fn must_keep(
    site: &WorkerSite,
    sent: &SentRequest,
    body: &ForwardedBody,
    now: Timestamp,
) -> bool {
    let content = (body.complete_pieces()).map_or(Content::Incomplete, Content::Complete);
    site.access.must_keep(sent, content, now)
}
