//! The app behind the gateway: it looks at every token as a resource server does, and says whose it
//! was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sidegate::clock::Clock;

use super::ledger::{Bearer, Book, Standing};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};

/// How long it thinks about what stands below `/slow`, before it looks at the token.
const THINKING: Duration = Duration::from_millis(300);

/// An app that takes tokens; gone when dropped.
pub(crate) struct TokenApp {
    server: RecordingUpstream,
}

impl TokenApp {
    /// Starts on a free port of 127.0.0.1; what `book` has issued is good here.
    pub(crate) async fn start(book: &Book, clock: &Clock) -> Self {
        Self::with(RecordingUpstream::start().await, book, clock)
    }

    /// Answers for `server`.
    pub(crate) fn with(server: RecordingUpstream, book: &Book, clock: &Clock) -> Self {
        server.forget_what_is_answered();
        let (book, clock) = (Arc::clone(book), clock.clone());
        server.answer_by(move |request| answer(request, &book, &clock));
        Self { server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }
}

fn answer(request: &Recorded, book: &Book, clock: &Clock) -> Answer {
    if !request.target().contains("/slow") {
        return judge(request, book, clock);
    }
    let (request, book, clock) = (request.clone(), Arc::clone(book), clock.clone());
    Answer::after(THINKING, move || judge(&request, &book, &clock))
}

/// 200 with whose the token is, when it is good; otherwise 401 with what is wrong with it.
fn judge(request: &Recorded, book: &Book, clock: &Clock) -> Answer {
    let field = request.head.value("authorization").unwrap_or_default();
    let token = field.strip_prefix("Bearer ").unwrap_or_default();
    let now = clock.now();
    let mut bearer = None;
    book.send_modify(|ledger| {
        bearer = ledger.bearer(token, now);
        if let Some(bearer) = &bearer {
            ledger.sees(bearer.place.family, now);
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
            standing: Standing::Expired,
            ..
        }) => refuse("expired token"),
        Some(Bearer {
            standing: Standing::Killed,
            ..
        }) => refuse("killed token"),
        Some(Bearer { user, place, .. }) => {
            let fields = [("Content-Type", "application/json"), ("X-App", "served")];
            let told = request.head.value("x-forwarded-user").unwrap_or_default();
            let body = json!({
                "user": user, "told": told, "family": place.family, "pair": place.pair,
                "received": request.body.len(),
            });
            Answer::with(200, &fields, &body.to_string())
        }
    }
}
