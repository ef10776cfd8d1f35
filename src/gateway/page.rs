//! The gateway's own pages, as plain HTML, and as problem details for programs (RFC 9457). Only the
//! pages in `tab_page` and `kept_form` have a script.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use super::script::Script;
use super::{Body, grpc};
use crate::fields::request_id;

const STYLE: &str = "\
:root{color-scheme:light dark}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;\
font:16px/1.55 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;\
background:#f4f5f7;color:#1d2330}\
main{width:100%;max-width:31rem;background:#fff;border:1px solid #dfe3ea;border-radius:12px;\
padding:2rem;box-shadow:0 1px 3px rgba(20,30,50,.06)}\
h1{font-size:1.35rem;line-height:1.3;margin:0 0 .75rem;text-wrap:balance}\
p{margin:0 0 .9rem;overflow-wrap:anywhere}\
.actions{display:flex;flex-wrap:wrap;gap:.6rem;margin-top:1.4rem}\
.choice{flex-direction:column;text-align:center}\
form{margin:0;display:flex;flex-wrap:wrap;gap:.6rem}\
a.button,button{display:inline-block;font:inherit;font-weight:600;cursor:pointer;\
text-decoration:none;border-radius:8px;padding:.5rem 1rem;border:1px solid #2456c7;\
background:#2456c7;color:#fff}\
a.button.second,button.second{background:transparent;color:#2456c7}\
a.button:focus-visible,button:focus-visible{outline:3px solid #9db8f5;outline-offset:2px}\
.code{margin:1.6rem 0 0;font-size:.82rem;color:#677185}\
.list{list-style:none;margin:1.2rem 0 0;padding:0;border-bottom:1px solid #dfe3ea}\
.list li{display:flex;flex-wrap:wrap;gap:.6rem 1rem;align-items:center;\
justify-content:space-between;padding:.9rem 0;border-top:1px solid #dfe3ea}\
.list div{flex:1 1 14rem}\
.list p{margin:.1rem 0 0;font-size:.88rem;color:#677185}\
.list button{padding:.3rem .8rem;font-size:.9rem}\
.mark{margin-left:.25rem;padding:.1rem .55rem;border-radius:99px;font-size:.78rem;\
background:#e4ecfd;color:#2456c7;white-space:nowrap}\
@media(prefers-color-scheme:dark){\
body{background:#12151b;color:#e6e9ef}\
main{background:#1b2029;border-color:#2e3542;box-shadow:none}\
a.button,button{background:#8fb0ff;border-color:#8fb0ff;color:#10131a}\
a.button.second,button.second{background:transparent;color:#8fb0ff}\
.code,.list p{color:#97a1b3}\
.list,.list li{border-color:#2e3542}\
.mark{background:#26344f;color:#b9ceff}}";

/// With this content security policy, the page loads no other resources, cannot be shown in a
/// frame, and sends forms only to its own origin. Because of the hash in the policy, browsers apply
/// the style sheet of the page and no other style sheet.
static POLICY: LazyLock<HeaderValue> =
    LazyLock::new(|| policy("form-action 'self'; frame-ancestors 'none'"));

/// The same content security policy for a page that other pages of its origin can show in a frame.
static FRAME_POLICY: LazyLock<HeaderValue> =
    LazyLock::new(|| policy("form-action 'self'; frame-ancestors 'self'"));

/// The same content security policy for a page whose form is sent to an app. Chromium would apply a
/// limit of forms also to the redirects of the app.
static SEND_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy("frame-ancestors 'none'"));

pub(super) fn policy(more: &str) -> HeaderValue {
    let hash = hash(STYLE);
    let policy = format!("default-src 'none'; style-src {hash}; {more}; base-uri 'none'");
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// Returns the source expression that allows exactly `text` as an inline style or script.
pub(super) fn hash(text: &str) -> String {
    let hash = STANDARD.encode(digest(&SHA256, text.as_bytes()));
    format!("'sha256-{hash}'")
}

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// The reason code that the user sees. The access log contains the same reason code.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShownReason(pub(super) &'static str);

/// An action that the page offers to the user.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// A link to another page.
    Link { href: String, label: String },
    /// A form with one button, sent by POST.
    Post { action: String, label: &'static str },
    /// A form with one hidden field and two buttons. The second button sends the same field to
    /// another URL.
    Send {
        action: String,
        label: &'static str,
        field: (&'static str, String),
        other: (String, &'static str),
    },
}

/// An entry of the list on a page.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) title: String,
    /// A short text that distinguishes the entry.
    pub(super) mark: Option<&'static str>,
    /// The lines below the title.
    pub(super) details: Vec<String>,
    pub(super) action: Option<Action>,
}

impl Item {
    fn html(&self) -> String {
        let mut html = format!("<li>\n<div>\n<strong>{}</strong>", escape(&self.title));
        if let Some(mark) = self.mark {
            html.extend([" <span class=\"mark\">", &escape(mark), "</span>"]);
        }
        html.push('\n');
        for line in &self.details {
            html.extend(["<p>", &escape(line), "</p>\n"]);
        }
        html.push_str("</div>\n");
        html.extend((self.action.as_ref()).map(|action| action.html("second", false)));
        html.push_str("</li>\n");
        html
    }
}

/// The layout of the actions (links and buttons) on a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// All actions look the same, because only the user knows which action is right.
    Choice,
    /// The first action stands out, because most users need this action.
    Steps,
}

impl Layout {
    fn class(self) -> &'static str {
        match self {
            Self::Choice => "actions choice",
            Self::Steps => "actions",
        }
    }

    /// Returns the CSS class of the action at this position.
    fn of_action(self, index: usize) -> &'static str {
        match (self, index) {
            (Self::Steps, 0) => "",
            (Self::Choice | Self::Steps, _) => "second",
        }
    }
}

/// A page for a user, or the same text for a program. All text is escaped before it becomes HTML.
/// The page contains only the texts that its caller provides.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    pub(super) text: Vec<String>,
    /// The list between the text and the actions.
    pub(super) items: Vec<Item>,
    pub(super) actions: Vec<Action>,
    layout: Layout,
    /// True if pages of the same origin can show the page in a frame. The links of the page then
    /// open in the whole tab.
    in_frame: bool,
    /// The reason code, which is also in the log.
    pub(super) reason: Option<&'static str>,
    /// The URL to which a program sends its user for a login.
    pub(super) login_url: Option<String>,
    /// The URL to which a program sends its user after a sign-out, so that the provider ends the
    /// user's session.
    pub(super) end_session_url: Option<String>,
    /// The pause before a retry.
    pub(super) retry_after: Option<Duration>,
    /// The number of seconds after which the page opens a URL, and the URL. With an empty URL, the
    /// page loads itself again.
    pub(super) refresh: Option<(u64, String)>,
    pub(super) script: Option<Script>,
    /// True if the page stands for a redirect.
    stands_for_redirect: bool,
}

impl Page {
    pub(super) fn new(status: StatusCode, title: &'static str, text: impl Into<String>) -> Self {
        let text = vec![text.into()];
        Self {
            status,
            title,
            text,
            items: Vec::new(),
            actions: Vec::new(),
            layout: Layout::Steps,
            in_frame: false,
            reason: None,
            login_url: None,
            end_session_url: None,
            retry_after: None,
            refresh: None,
            script: None,
            stands_for_redirect: false,
        }
    }

    /// Marks the page as a page that stands for a redirect.
    pub(super) fn instead_of_redirect(mut self) -> Self {
        self.stands_for_redirect = true;
        self
    }

    /// Makes all actions of the page look the same.
    pub(super) fn with_choices(mut self) -> Self {
        self.layout = Layout::Choice;
        self
    }

    /// Lets pages of the same origin show the page in a frame.
    pub(super) fn in_frame(mut self) -> Self {
        self.in_frame = true;
        self
    }

    pub(super) fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    pub(super) fn paragraph(mut self, text: impl Into<String>) -> Self {
        self.text.push(text.into());
        self
    }

    pub(super) fn link(mut self, label: impl Into<String>, href: impl Into<String>) -> Self {
        self.actions.push(Action::Link {
            href: href.into(),
            label: label.into(),
        });
        self
    }

    pub(super) fn post(mut self, label: &'static str, action: impl Into<String>) -> Self {
        self.actions.push(Action::Post {
            action: action.into(),
            label,
        });
        self
    }

    /// Returns the answer to a request that may be a gRPC request. A gRPC client gets a gRPC
    /// status. Any other client gets the answer of [`Page::respond`].
    pub(super) fn respond_to(&self, method: &Method, headers: &HeaderMap) -> Response<Body> {
        let Some(protocol) = grpc::Protocol::of(method, headers) else {
            return self.respond(headers);
        };
        let message = format!("{}: {}", self.title, self.text.join(" "));
        let response = protocol.answer(self.status, &message, self.retry_after);
        self.finish(response)
    }

    /// Returns HTML for browsers, and problem details for other clients.
    pub(super) fn respond(&self, headers: &HeaderMap) -> Response<Body> {
        self.finish(self.respond_over_http(headers, wants_html(headers)))
    }

    /// Returns problem details to every client.
    pub(super) fn respond_as_data(&self, headers: &HeaderMap) -> Response<Body> {
        self.finish(self.respond_over_http(headers, false))
    }

    fn finish(&self, mut response: Response<Body>) -> Response<Body> {
        if let Some(reason) = self.reason {
            response.extensions_mut().insert(ShownReason(reason));
        }
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            // `Retry-After: 0` would make programs retry without a pause.
            let seconds = HeaderValue::from(after.as_secs().max(1));
            headers.insert(header::RETRY_AFTER, seconds);
        }
        add_security_fields(headers);
        response
    }

    fn respond_over_http(&self, headers: &HeaderMap, as_html: bool) -> Response<Body> {
        // Only a page about a failure shows the id of the request. The user can tell the id of the
        // request to the administrator.
        let is_failure = self.status.is_client_error() || self.status.is_server_error();
        let request_id = request_id::of(headers).filter(|_id| is_failure);
        let (body, kind) = if as_html {
            (self.html(request_id), "text/html; charset=utf-8")
        } else {
            (self.problem(request_id), "application/problem+json")
        };
        let mut response = Response::new(Body::own(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let (policy, framing) = match &self.script {
            Some(script) => (script.policy(), "DENY"),
            None if self.in_frame => (FRAME_POLICY.clone(), "SAMEORIGIN"),
            None if self.sends_to_app() => (SEND_POLICY.clone(), "DENY"),
            None => (POLICY.clone(), "DENY"),
        };
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static(framing));
        // Pages have the field `Cross-Origin-Opener-Policy`, and redirects do not have this field.
        // On a redirect, `Cross-Origin-Opener-Policy` would separate a popup of the app from the
        // window that opened the popup.
        if !self.stands_for_redirect {
            headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
        }
        response
    }

    /// Whether a form of the page is sent to an app.
    fn sends_to_app(&self) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|action| matches!(action, Action::Send { .. }))
    }

    fn html(&self, request_id: Option<&str>) -> String {
        let title = escape(self.title);
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{}\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <h1>{title}</h1>\n",
            self.refresh_html(),
        );
        for text in &self.text {
            html.extend(["<p>", &escape(text), "</p>\n"]);
        }
        if !self.items.is_empty() {
            html.push_str("<ul class=\"list\">\n");
            html.extend(self.items.iter().map(Item::html));
            html.push_str("</ul>\n");
        }
        if matches!(self.refresh, Some((1.., _))) {
            html.push_str("<p>This page tries again by itself.</p>\n");
        }
        if !self.actions.is_empty() {
            html.extend(["<div class=\"", self.layout.class(), "\">\n"]);
            for (index, action) in self.actions.iter().enumerate() {
                html.push_str(&action.html(self.layout.of_action(index), self.in_frame));
            }
            html.push_str("</div>\n");
        }
        let reason = self
            .reason
            .map(|reason| format!("Reason: {}", escape(reason)));
        let id = request_id.map(|id| format!("Request id: {}", escape(id)));
        let codes: Vec<String> = reason.into_iter().chain(id).collect();
        if !codes.is_empty() {
            html.extend(["<p class=\"code\">", &codes.join("<br>\n"), "</p>\n"]);
        }
        html.push_str("</main>\n");
        html.extend(self.script.as_ref().map(Script::html));
        html.push_str("</body>\n</html>\n");
        html
    }

    fn refresh_html(&self) -> String {
        let refresh = |seconds: u64, url: &str| {
            let url = match url {
                "" => String::new(),
                url => format!(";url={}", escape(url)),
            };
            format!("<meta http-equiv=\"refresh\" content=\"{seconds}{url}\">\n")
        };
        let script = self.script.as_ref();
        match (
            &self.refresh,
            script.and_then(|script| script.otherwise.as_ref()),
        ) {
            (Some((seconds, url)), _) => refresh(*seconds, url),
            (None, Some(url)) => format!("<noscript>{}</noscript>\n", refresh(0, url)),
            (None, None) => String::new(),
        }
    }

    fn problem(&self, request_id: Option<&str>) -> String {
        let problem = Problem {
            title: self.title,
            status: self.status.as_u16(),
            detail: self.text.join(" "),
            reason: self.reason,
            request_id,
            login_url: self.login_url.as_deref(),
            end_session_url: self.end_session_url.as_deref(),
        };
        serde_json::to_string(&problem).unwrap_or_default()
    }
}

#[derive(serde::Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_session_url: Option<&'a str>,
}

impl Action {
    fn html(&self, class: &str, in_frame: bool) -> String {
        let target = if in_frame { " target=\"_top\"" } else { "" };
        match self {
            Self::Link { href, label } => format!(
                "<a class=\"button {class}\" href=\"{}\"{target}>{}</a>\n",
                escape(href),
                escape(label)
            ),
            Self::Post { action, label } => format!(
                "<form method=\"post\" action=\"{}\"><button class=\"{class}\">{}</button></form>\n",
                escape(action),
                escape(label)
            ),
            Self::Send {
                action,
                label,
                field: (name, value),
                other: (other_action, other_label),
            } => format!(
                "<form method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"{}\" \
                 value=\"{}\"><button class=\"{class}\">{}</button>\n\
                 <button class=\"second\" formaction=\"{}\">{}</button></form>\n",
                escape(action),
                escape(name),
                escape(value),
                escape(label),
                escape(other_action),
                escape(other_label)
            ),
        }
    }
}

/// Adds the fields that all of the gateway's own answers have. The added fields forbid the browser
/// to store the answer, to guess its type, and to send its URL to other sites.
pub(super) fn add_security_fields(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Whether the client explicitly accepts HTML. A program that accepts any type (`*/*`) would treat
/// a page as the data that it requested.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter();
    accept.into_iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|kind| {
            let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().eq_ignore_ascii_case(b"text/html")
        })
    })
}

/// Escapes text for HTML text and attribute values.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // A control character could hide or reorder the text around it.
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
