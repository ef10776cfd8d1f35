//! The app behind the gateway. The app checks every token like a resource server, and its answer
//! names the user of the token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sidegate::clock::Clock;

use super::ledger::{Bearer, SharedLedger, TokenStatus};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};

/// The delay of paths below `/slow`, before the app checks the token.
const SLOW_ANSWER_DELAY: Duration = Duration::from_millis(300);

/// An app that accepts tokens. The app stops when its value is dropped.
pub(crate) struct TokenApp {
    server: RecordingUpstream,
}

impl TokenApp {
    /// Starts on a free port of 127.0.0.1. The app accepts the tokens that `shared_ledger` has
    /// issued.
    pub(crate) async fn start(shared_ledger: &SharedLedger, clock: &Clock) -> Self {
        Self::with(RecordingUpstream::start().await, shared_ledger, clock)
    }

    /// Answers for `server`.
    pub(crate) fn with(
        server: RecordingUpstream,
        shared_ledger: &SharedLedger,
        clock: &Clock,
    ) -> Self {
        server.forget_what_is_answered();
        let (shared_ledger, clock) = (Arc::clone(shared_ledger), clock.clone());
        server.answer_by(move |request| answer(request, &shared_ledger, &clock));
        Self { server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }
}

fn answer(request: &Recorded, shared_ledger: &SharedLedger, clock: &Clock) -> Answer {
    if !request.target().contains("/slow") {
        return check_token(request, shared_ledger, clock);
    }
    let (request, shared_ledger, clock) =
        (request.clone(), Arc::clone(shared_ledger), clock.clone());
    Answer::after(SLOW_ANSWER_DELAY, move || {
        check_token(&request, &shared_ledger, &clock)
    })
}

/// The answer is 200 with the token's user if the token is valid, or 401 with the reason.
fn check_token(request: &Recorded, shared_ledger: &SharedLedger, clock: &Clock) -> Answer {
    let field = request.head.value("authorization").unwrap_or_default();
    let token = field.strip_prefix("Bearer ").unwrap_or_default();
    let now = clock.now();
    let mut bearer = None;
    shared_ledger.send_modify(|ledger| {
        bearer = ledger.bearer(token, now);
        if let Some(bearer) = &bearer {
            ledger.note_use(bearer.pair_id, now);
        }
    });
    let refuse = |why: &str| {
        let fields = [
            ("Content-Type", "application/json"),
            ("WWW-Authenticate", "Bearer error=\"invalid_token\""),
            ("X-App", "refused"),
        ];
        Answer::with(401, &fields, &json!({ "message": why }).to_string())
    };
    match bearer {
        None => refuse("unknown token"),
        Some(Bearer {
            status: TokenStatus::Expired,
            ..
        }) => refuse("expired token"),
        Some(Bearer {
            status: TokenStatus::Killed,
            ..
        }) => refuse("killed token"),
        Some(Bearer { user, pair_id, .. }) => {
            let fields = [("Content-Type", "application/json"), ("X-App", "served")];
            let asserted_user = request.head.value("x-forwarded-user").unwrap_or_default();
            let body = json!({
                "user": user, "asserted_user": asserted_user, "family": pair_id.family, "pair": pair_id.pair,
                "received": request.body.len(),
            });
            Answer::with(200, &fields, &body.to_string())
        }
    }
}
