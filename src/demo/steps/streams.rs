//! The step that checks streams. The streams of a page end when another tab signs out, and the page
//! can open new streams after the next sign-in.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::mismatch::{Mismatch, StepResult, expect, missing_answer, request_failed};
use super::{PAGE, Steps, summary};
use crate::demo::browser::BrowserRequest;
use crate::demo::check::TokenCalls;

/// The time within which a stream must send its next message or end. The app sends a message each
/// second, and the gateway ends a stream within about a second.
const TEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum number of requests in one sign-in: the page, the login form, the posted form, the
/// callback, and the page again.
const SIGN_IN_REQUESTS: usize = 5;

impl<E: Fn() -> TokenCalls> Steps<'_, E> {
    pub(super) async fn streams(&mut self) -> StepResult {
        self.sign_in().await?;
        let mut socket = self.open_socket().await?;
        let mut events = self.open_events().await?;
        // The sign-out has the same effect as a sign-out in another tab, because all tabs share the
        // cookies.
        self.sign_out().await?;
        socket_ends(&mut socket).await?;
        events_end(&mut events).await?;
        for request in [self.socket_request()?, self.events_request()?] {
            let refused = self.open(request).await?.status();
            expect(
                refused == StatusCode::UNAUTHORIZED,
                "status 401 for a stream after the sign-out",
                || refused.to_string(),
            )?;
        }
        self.sign_in().await?;
        self.open_socket().await?;
        self.open_events().await.map(drop)
    }

    /// Signs in again and returns to the app. The provider either shows its login form or
    /// immediately redirects the browser.
    pub(super) async fn sign_in(&mut self) -> StepResult {
        let wanted = self.at(PAGE)?;
        let mut page = self.send(BrowserRequest::navigation(&wanted)).await?;
        for _request in 1..SIGN_IN_REQUESTS {
            page = match page.location() {
                Some(location) => self.send(BrowserRequest::navigation(&location)).await?,
                None if page.url == wanted => break,
                None => self.submit_login(&page).await?,
            };
        }
        let signed_in = page.status == StatusCode::OK && page.url == wanted;
        expect(signed_in, "the app's page after a sign-in", || {
            summary(&page)
        })
    }

    fn socket_request(&self) -> Result<BrowserRequest, Mismatch> {
        Ok(BrowserRequest::socket(&self.at("/live/socket")?))
    }

    fn events_request(&self) -> Result<BrowserRequest, Mismatch> {
        Ok(BrowserRequest::events(&self.at("/live/events")?))
    }

    async fn open(&self, request: BrowserRequest) -> Result<Response<Incoming>, Mismatch> {
        let answer = self.browser.open(request).await;
        answer.map_err(|error| request_failed(&error))
    }

    /// Opens an event stream and waits for its first event.
    async fn open_events(&self) -> Result<Incoming, Mismatch> {
        let answer = self.open(self.events_request()?).await?;
        let status = answer.status();
        expect(
            status == StatusCode::OK,
            "status 200 for an event stream",
            || status.to_string(),
        )?;
        let mut events = answer.into_body();
        let event = timeout(TEST_TIMEOUT, events.frame()).await;
        let event = matches!(event, Ok(Some(Ok(_))));
        expect(event, "an event", || "none".to_owned())?;
        Ok(events)
    }

    /// Opens a WebSocket and waits for its first message.
    async fn open_socket(&self) -> Result<TokioIo<Upgraded>, Mismatch> {
        let mut answer = self.open(self.socket_request()?).await?;
        let status = answer.status();
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        expect(switched, "status 101 for a WebSocket", || {
            status.to_string()
        })?;
        let switched = hyper::upgrade::on(&mut answer).await;
        let mut socket = TokioIo::new(switched.map_err(|_closed| missing_answer())?);
        let message = timeout(TEST_TIMEOUT, next_frame(&mut socket)).await;
        let message = matches!(message, Ok(Frame::Message));
        expect(message, "a message over the WebSocket", || {
            "none".to_owned()
        })?;
        Ok(socket)
    }
}

/// A frame of a WebSocket, or the end of the WebSocket.
enum Frame {
    Message,
    /// A close frame, with its close code.
    Close(u16),
    /// The connection ended without a close frame.
    End,
}

/// Reads one frame. The app and the gateway send only short frames.
async fn next_frame(socket: &mut TokioIo<Upgraded>) -> Frame {
    let mut head = [0; 2];
    if socket.read_exact(&mut head).await.is_err() {
        return Frame::End;
    }
    let [opcode, length] = head;
    let mut payload = vec![0; usize::from(length)];
    if socket.read_exact(&mut payload).await.is_err() {
        return Frame::End;
    }
    match (opcode, payload.first_chunk()) {
        // The first byte of a close frame is 0x88 (RFC 6455 section 5.2).
        (0x88, Some(code)) => Frame::Close(u16::from_be_bytes(*code)),
        _ => Frame::Message,
    }
}

/// Checks that the WebSocket gets a close frame with the code 1008 (policy violation).
async fn socket_ends(socket: &mut TokioIo<Upgraded>) -> StepResult {
    let ending = async {
        loop {
            match next_frame(socket).await {
                Frame::Message => {}
                Frame::Close(code) => return format!("close code {code}"),
                Frame::End => return "an end without a close code".to_owned(),
            }
        }
    };
    let ended = timeout(TEST_TIMEOUT, ending).await;
    let got = ended.unwrap_or_else(|_elapsed| "an open WebSocket".to_owned());
    let expected = "close code 1008 soon after the sign-out in another tab";
    expect(got == "close code 1008", expected, || got)
}

/// Checks that the event stream ends. The check accepts an end with an error and an end without an
/// error.
async fn events_end(events: &mut Incoming) -> StepResult {
    let ending = async { while let Some(Ok(_event)) = events.frame().await {} };
    let ended = timeout(TEST_TIMEOUT, ending).await.is_ok();
    let expected = "the end of the event stream soon after the sign-out in another tab";
    expect(ended, expected, || "an open event stream".to_owned())
}
