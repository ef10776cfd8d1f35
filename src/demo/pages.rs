//! The pages of the demo: plain HTML. Only the page with live clocks has a script. The pages
//! support small screens and dark mode.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use http::{HeaderValue, Response, StatusCode};

use super::serve::{ReplyBody, answer};

/// The name of the authorization server on its pages.
pub(crate) const PROVIDER: &str = "Authorization server";

/// The name of the app on its pages.
pub(crate) const APP: &str = "Legacy app";

/// The content security policy. With this content security policy, a page runs no script, loads
/// nothing, and cannot be framed.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
     frame-ancestors 'none'";

const STYLE: &str = include_str!("style.css");

/// Returns a page of the app or of the authorization server. `title` and `server_name` are plain
/// text. `body` is HTML.
pub(crate) fn page(
    status: StatusCode,
    server_name: &str,
    title: &str,
    body: &str,
) -> Response<ReplyBody> {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} \u{b7} {server_name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body class=\"{width}\">\n\
         <header><span class=\"place\">{server_name}</span><span class=\"badge\">development demo</span>\
         </header>\n<main>\n{body}\n</main>\n</body>\n</html>\n",
        width = if server_name == PROVIDER {
            "narrow"
        } else {
            "wide"
        },
        title = escape(title),
        server_name = escape(server_name),
    );
    let mut response = answer(status, "text/html; charset=utf-8", html);
    let fields = response.headers_mut();
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Returns a page of the app with a script. The content security policy allows no other script, and
/// allows connections only to the origin of the page.
pub(crate) fn page_with_script(title: &str, body: &str, script: &str) -> Response<ReplyBody> {
    let body = format!("{body}\n<script>{script}</script>");
    let mut response = page(StatusCode::OK, APP, title, &body);
    let hash = STANDARD.encode(digest(&SHA256, script.as_bytes()));
    let policy = format!("{POLICY}; script-src 'sha256-{hash}'; connect-src 'self'");
    // The conversion to a field value does not fail, because the policy contains only ASCII
    // characters. If the policy could not be converted, the response would keep the stricter policy
    // `POLICY`.
    if let Ok(policy) = HeaderValue::try_from(policy) {
        let fields = response.headers_mut();
        fields.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Escapes `text` for HTML text and for quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Returns a table with two columns. Names and values are plain text.
pub(crate) fn table<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut html = String::from("<table>\n");
    for (name, value) in rows {
        // Writing to a `String` does not fail.
        let row = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            escape(name),
            escape(&value)
        );
        if row.is_err() {
            break;
        }
    }
    html.push_str("</table>");
    html
}

/// The default password. The login form shows the default password if a user has this password.
pub(crate) const EASY_PASSWORD: &str = "password";

/// Returns the login form, which posts to `action`. `failed` is the user name that the user
/// entered, if the previous sign-in has failed. `hint` is the name of a user with the password
/// [`EASY_PASSWORD`].
pub(crate) fn login(
    action: &str,
    token: &str,
    failed: Option<&str>,
    hint: Option<&str>,
) -> Response<ReplyBody> {
    let (status, problem) = match failed {
        Some(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "<p class=\"problem\" role=\"alert\">The user name or the password is wrong.</p>\n",
        ),
        None => (StatusCode::OK, ""),
    };
    let hint = hint.map_or_else(String::new, |user| {
        let user = escape(user);
        format!(
            "<p class=\"quiet\">Demo account: user <code>{user}</code>, password \
             <code>{EASY_PASSWORD}</code>.</p>"
        )
    });
    let body = format!(
        "<h1>Sign in</h1>\n<p>An app wants to know who you are.</p>\n{problem}\
         <form method=\"post\" action=\"{action}\" class=\"stack\">\n\
         <input type=\"hidden\" name=\"_token\" value=\"{token}\">\n\
         <label>User<input name=\"user\" value=\"{user}\" autocomplete=\"username\" \
         autocapitalize=\"none\" spellcheck=\"false\" required autofocus></label>\n\
         <label>Password<input type=\"password\" name=\"password\" \
         autocomplete=\"current-password\" required></label>\n\
         <div class=\"buttons\"><button name=\"action\" value=\"allow\">Sign in</button>\n\
         <button name=\"action\" value=\"deny\" class=\"second\" formnovalidate>Cancel</button>\
         </div>\n</form>\n{hint}",
        action = escape(action),
        user = escape(failed.unwrap_or_default()),
    );
    page(status, PROVIDER, "Sign in", &body)
}

/// Returns the front page of the authorization server. `signed_in` contains the name of the user
/// and the CSRF token for the sign-out form.
pub(crate) fn provider_home(signed_in: Option<(&str, &str)>) -> Response<ReplyBody> {
    let body = match signed_in {
        Some((name, token)) => format!(
            "<h1>Hello, {}</h1>\n<p>You are signed in at this server. When an app sends you \
             here, you do not need to type your password again.</p>\n\
             <form method=\"post\" action=\"/logout\" class=\"stack\">\n\
             <input type=\"hidden\" name=\"_token\" value=\"{token}\">\n\
             <div class=\"buttons\"><button>Sign out here</button></div>\n</form>",
            escape(name)
        ),
        None => "<h1>Nobody is signed in</h1>\n<p>Apps send people here to sign in. Open the app \
                 to begin.</p>"
            .to_owned(),
    };
    page(StatusCode::OK, PROVIDER, "Account", &body)
}

/// Returns the answer to a form whose CSRF token is missing or belongs to another session.
pub(crate) fn page_expired() -> Response<ReplyBody> {
    // Laravel answers an expired form with status 419, a valid status code that is not registered.
    let status = StatusCode::from_u16(419).unwrap_or(StatusCode::FORBIDDEN);
    let body = "<h1>This page has expired</h1>\n<p>The form is no longer valid. Go back, reload \
                the page and try again.</p>";
    page(status, PROVIDER, "Page expired", body)
}

/// Returns the answer for an unknown path of `server_name`, which is [`APP`] or [`PROVIDER`].
pub(crate) fn not_found(server_name: &str) -> Response<ReplyBody> {
    let body = "<h1>Not found</h1>\n<p>This page does not exist.</p>\n\
                <p><a href=\"/\">Front page</a></p>";
    page(StatusCode::NOT_FOUND, server_name, "Not found", body)
}
