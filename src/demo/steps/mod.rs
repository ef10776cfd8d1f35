//! The steps of the check: the requests of each step, and the expected results.

mod logout;
mod mismatch;
mod streams;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use url::Url;

use self::mismatch::{Mismatch, StepResult, expect, missing_answer, request_failed};
use super::browser::{Browser, BrowserRequest, Page};
use super::check::{Check, Step, TokenCalls};

/// The name of the session cookie.
const COOKIE: &str = "__Host-sidegate";

/// The requested page. The query distinguishes the requested page from `/`, so the check can
/// recognise the page to which the browser has returned.
const PAGE: &str = "/?from=check";

/// The results of earlier steps that later steps need.
pub(crate) struct Steps<'a, E> {
    check: &'a Check<E>,
    browser: Browser,
    /// The number of requests to the token endpoint before the check.
    before: TokenCalls,
    /// The latest answer, from which the next step continues.
    page: Option<Page>,
    state: String,
    session: String,
}

impl<'a, E: Fn() -> TokenCalls> Steps<'a, E> {
    pub(crate) fn new(check: &'a Check<E>) -> Self {
        Self {
            check,
            browser: browser(check),
            before: (check.calls)(),
            page: None,
            state: String::new(),
            session: String::new(),
        }
    }

    /// Runs one step. All steps before this step must have passed.
    pub(crate) async fn run(&mut self, step: Step) -> StepResult {
        match step {
            Step::Redirect => self.redirect().await,
            Step::LoginForm => self.login_form().await,
            Step::Code => self.code().await,
            Step::Exchange => self.exchange().await,
            Step::SessionCookie => self.session_cookie(),
            Step::Bearer => self.bearer().await,
            Step::Cache => self.cache().await,
            Step::Refresh => self.refresh().await,
            Step::Post => self.post().await,
            Step::Api => self.api().await,
            Step::SignOut => self.sign_out().await,
            Step::CookieDead => self.cookie_dead().await,
            Step::Streams => self.streams().await,
            Step::Logout => self.logout().await,
        }
    }

    async fn redirect(&mut self) -> StepResult {
        let page = self
            .send(BrowserRequest::navigation(&self.at(PAGE)?))
            .await?;
        let location = self.authorization_request(&page)?;
        let mut query: Vec<(String, String)> = location.query_pairs().into_owned().collect();
        query.sort_unstable();
        let one = |name: &str| {
            let mut values = query.iter().filter(|(parameter, _value)| parameter == name);
            match (values.next(), values.next()) {
                (Some((_name, value)), None) => Ok(value.as_str()),
                (None, _) => Err(format!("none in {}", names(&query))),
                (Some(_), Some(_)) => Err(format!("several in {}", names(&query))),
            }
        };
        // A report names the length of a wrong value and not the value, because a report must
        // contain no secret.
        let is = |name: &str, good: &dyn Fn(&str) -> bool, expected: &str| match one(name) {
            Ok(value) => expect(good(value), &format!("{name} {expected}"), || {
                format!("another value of {} characters", value.len())
            }),
            Err(got) => expect(false, &format!("one {name}"), || got),
        };
        let callback = self.at("/oauth2/callback")?;
        is("response_type", &|value| value == "code", "code")?;
        is("client_id", &|value| !value.is_empty(), "with a value")?;
        is("code_challenge_method", &|value| value == "S256", "S256")?;
        is("code_challenge", &is_digest, "of 43 base64url characters")?;
        is("state", &|value| !value.is_empty(), "with a value")?;
        let redirect_uri = one("redirect_uri").unwrap_or_default().to_owned();
        let expected = format!("one redirect_uri {callback}");
        expect(redirect_uri == callback.as_str(), &expected, || {
            redirect_uri
        })?;
        one("state").unwrap_or_default().clone_into(&mut self.state);
        self.page = Some(page);
        Ok(())
    }

    async fn login_form(&mut self) -> StepResult {
        let location = self.next()?;
        let page = self.send(BrowserRequest::navigation(&location)).await?;
        expect(page.status == StatusCode::OK, "status 200", || {
            summary(&page)
        })?;
        let form = attribute(&page.body, "<form ", "action").is_some()
            && attribute(&page.body, "name=\"_token\"", "value").is_some();
        expect(form, "a form with a CSRF token", || {
            "a page without one".to_owned()
        })?;
        self.page = Some(page);
        Ok(())
    }

    async fn code(&mut self) -> StepResult {
        let form = self.page.take().ok_or_else(missing_answer)?;
        let page = self.submit_login(&form).await?;
        expect(
            matches!(page.status, StatusCode::FOUND | StatusCode::SEE_OTHER),
            "a redirect after user and password",
            || summary(&page),
        )?;
        let location = page.location().ok_or_else(missing_answer)?;
        let callback = self.at("/oauth2/callback")?;
        let expected = format!("a redirect to {callback}");
        expect(
            without_query(&location) == callback.as_str(),
            &expected,
            || without_query(&location),
        )?;
        let query = |name: &str| {
            let mut pairs = location.query_pairs();
            pairs.find_map(|(parameter, value)| (parameter == name).then(|| value.into_owned()))
        };
        let code = query("code").is_some_and(|code| !code.is_empty());
        let error = || query("error").unwrap_or_else(|| "none".to_owned());
        expect(code, "a code", error)?;
        let state = query("state").is_some_and(|state| state == self.state);
        expect(state, "the state of the request", || {
            "another state".to_owned()
        })?;
        self.page = Some(page);
        Ok(())
    }

    /// Fills the user name and the password into the login form of `page`, and posts the form.
    async fn submit_login(&mut self, page: &Page) -> Result<Page, Mismatch> {
        let action = attribute(&page.body, "<form ", "action").ok_or_else(missing_answer)?;
        let token = attribute(&page.body, "name=\"_token\"", "value").ok_or_else(missing_answer)?;
        let action = page
            .url
            .join(&action)
            .map_err(|_relative| missing_answer())?;
        let fields = [
            ("_token", token.as_str()),
            ("user", &self.check.user),
            ("password", self.check.password.expose()),
            ("action", "allow"),
        ];
        self.send(BrowserRequest::form(&action, &fields)).await
    }

    async fn exchange(&mut self) -> StepResult {
        let callback = self.next()?;
        let request = BrowserRequest::navigation(&callback);
        let page = self.send(request).await?;
        expect(
            page.status == StatusCode::SEE_OTHER,
            "status 303 after the callback",
            || summary(&page),
        )?;
        let wanted = self.at(PAGE)?;
        let location = page.location();
        let expected = format!("a redirect to {wanted}");
        expect(location.as_ref() == Some(&wanted), &expected, || {
            location.map_or_else(|| "none".to_owned(), |location| without_query(&location))
        })?;
        self.page = Some(page);
        self.one_exchange()
    }

    fn session_cookie(&mut self) -> StepResult {
        let page = self.page.take().ok_or_else(missing_answer)?;
        let now = self.check.clock.now();
        let cookies = page.cookies();
        let mut named = cookies.iter().filter(|cookie| cookie.name == COOKIE);
        let (cookie, more) = (named.next(), named.next());
        expect(more.is_none(), "one session cookie", || {
            "several".to_owned()
        })?;
        let Some(cookie) = cookie else {
            return expect(false, &format!("a cookie {COOKIE}"), || "none".to_owned());
        };
        let has = |name: &str| cookie.attribute(name).is_some();
        let is = |name: &str, value: &str| {
            let attribute = cookie.attribute(name).unwrap_or_default();
            attribute.eq_ignore_ascii_case(value)
        };
        let without = || "a cookie without it".to_owned();
        expect(has("secure"), "Secure", without)?;
        expect(has("httponly"), "HttpOnly", without)?;
        expect(is("samesite", "Lax"), "SameSite=Lax", without)?;
        expect(is("path", "/"), "Path=/", without)?;
        expect(!has("domain"), "no Domain", || "a Domain".to_owned())?;
        expect(!cookie.clears(now), "a cookie with a value", || {
            "a deleted cookie".to_owned()
        })?;
        // A value with 256 random bits has 32 bytes, or 43 characters in base64url.
        expect(cookie.value.len() >= 32, "at least 32 characters", || {
            cookie.value.len().to_string()
        })?;
        let kept = self.browser.cookie(&page.url, COOKIE);
        kept.ok_or_else(missing_answer)?
            .clone_into(&mut self.session);
        Ok(())
    }

    async fn bearer(&mut self) -> StepResult {
        let page = self
            .send(BrowserRequest::navigation(&self.at(PAGE)?))
            .await?;
        expect(page.status == StatusCode::OK, "the app's page", || {
            summary(&page)
        })?;
        // The client forges fields that only the gateway may write. The app must not receive the
        // forged values.
        let request = BrowserRequest::fetch(&self.at("/whoami")?)
            .field("authorization", "Bearer evil")
            .field("x-forwarded-user", "root")
            .field("x-forwarded-email", "root");
        let seen = self.whoami(request).await?;
        let fields = seen.get("fields").and_then(Value::as_object);
        let fields = fields.ok_or_else(missing_answer)?;
        for (name, value) in fields {
            let value = value.as_str().unwrap_or_default();
            let forged = value.split(", ").any(|value| value == "root") || value.contains("evil");
            expect(!forged, "no forged field of the client", || name.clone())?;
            expect(
                !value.contains(COOKIE),
                "no session cookie in the request to the app",
                || name.clone(),
            )?;
        }
        for (name, expected) in &self.check.fields {
            let got = fields.get(*name).and_then(Value::as_str);
            expect(
                got == Some(expected),
                &format!("{name}: {expected}"),
                || got.unwrap_or("none").to_owned(),
            )?;
        }
        Ok(())
    }

    async fn cache(&mut self) -> StepResult {
        for _again in 0..2 {
            let request = BrowserRequest::fetch(&self.at("/whoami")?);
            self.whoami(request).await?;
            self.one_exchange()?;
        }
        Ok(())
    }

    async fn refresh(&mut self) -> StepResult {
        // After the clock has advanced by the lifetime of the token, the app refuses the token.
        self.check.clock.advance(self.check.token_lifetime);
        // The second request shows that the gateway uses the new token without another refresh.
        for _again in 0..2 {
            let request = BrowserRequest::fetch(&self.at("/whoami")?);
            self.whoami(request).await?;
            let seen = (self.check.calls)().refreshes;
            let seen = seen.saturating_sub(self.before.refreshes);
            expect(seen == 1, "one refresh", || seen.to_string())?;
        }
        self.one_exchange()
    }

    async fn post(&mut self) -> StepResult {
        // The text has characters that are encoded in a form and in HTML, so the step fails if the
        // body was changed on the way to the app.
        let note = "sign & drive <gate>";
        let fields = [("title", "check"), ("text", note)];
        let page = self
            .send(BrowserRequest::form(&self.at("/notes")?, &fields))
            .await?;
        expect(page.status == StatusCode::OK, "status 200", || {
            summary(&page)
        })?;
        let arrived = page.body.contains("sign &amp; drive &lt;gate&gt;");
        expect(arrived, "a page with the posted text", || {
            "a page without it".to_owned()
        })
    }

    async fn api(&mut self) -> StepResult {
        // A new browser has no session cookie.
        let mut new_browser = browser(self.check);
        let page = new_browser
            .send(BrowserRequest::fetch(&self.at("/whoami")?))
            .await;
        let page = page.map_err(|error| request_failed(&error))?;
        refused(&page)?;
        let problem: Value = serde_json::from_str(&page.body).unwrap_or_default();
        let login_url = problem.get("login_url").and_then(Value::as_str);
        let ours = login_url
            .and_then(|url| self.check.public_url.join(url).ok())
            .is_some_and(|url| url.origin() == self.check.public_url.origin());
        expect(ours, "a login_url of the gateway", || {
            login_url.unwrap_or("none").to_owned()
        })
    }

    async fn sign_out(&mut self) -> StepResult {
        let request = BrowserRequest::form(&self.at("/oauth2/sign_out")?, &[]);
        let page = self.send(request).await?;
        expect(
            matches!(page.status, StatusCode::OK | StatusCode::SEE_OTHER),
            "status 303 or a page",
            || summary(&page),
        )?;
        let now = self.check.clock.now();
        let mut cookies = page.cookies().into_iter();
        let cleared = cookies.any(|cookie| cookie.name == COOKIE && cookie.clears(now));
        let kept = self.browser.cookie(&page.url, COOKIE).is_some();
        expect(
            cleared && !kept,
            "an answer that deletes the session cookie",
            || "an answer that does not".to_owned(),
        )?;
        self.sign_out_at_provider(page).await
    }

    /// Opens the end-session endpoint, as a browser does by itself. Does nothing if the provider has
    /// no end-session endpoint.
    async fn sign_out_at_provider(&mut self, mut page: Page) -> StepResult {
        let refresh = attribute(&page.body, "<meta http-equiv=\"refresh\" ", "content");
        let Some(target) = refresh
            .as_deref()
            .and_then(|content| content.strip_prefix("0;url="))
        else {
            return Ok(());
        };
        let mut next = Some(self.at(target)?);
        while let Some(url) = next {
            page = self.send(BrowserRequest::navigation(&url)).await?;
            next = page.location();
        }
        let ended = page.status == StatusCode::OK && page.body.contains("has ended, too");
        expect(ended, "a page about the sign-out at the provider", || {
            summary(&page)
        })
    }

    async fn cookie_dead(&mut self) -> StepResult {
        let cookie = format!("{COOKIE}={}", self.session);
        // The first browser has deleted its cookie, so a new browser sends the old cookie.
        let mut other_browser = browser(self.check);
        let request = BrowserRequest::navigation(&self.at(PAGE)?).field("cookie", &cookie);
        let page = other_browser.send(request).await;
        let page = page.map_err(|error| request_failed(&error))?;
        // A navigation without a session may get 401 or a redirect to the provider: both answers
        // are correct.
        if page.status != StatusCode::UNAUTHORIZED {
            self.authorization_request(&page)?;
        }
        let request = BrowserRequest::fetch(&self.at("/whoami")?).field("cookie", &cookie);
        let page = other_browser.send(request).await;
        refused(&page.map_err(|error| request_failed(&error))?)
    }

    /// Asks the app for the signed-in user. Checks that the app reports the expected subject and a
    /// valid signature of the token.
    async fn whoami(&mut self, request: BrowserRequest) -> Result<Value, Mismatch> {
        let page = self.send(request).await?;
        expect(page.status == StatusCode::OK, "the app's answer", || {
            summary(&page)
        })?;
        let seen: Value = serde_json::from_str(&page.body).unwrap_or_default();
        let text = |name: &str| seen.get(name).and_then(Value::as_str).unwrap_or("nothing");
        let token = text("token");
        expect(
            token == "signature checked",
            "a token signed by the provider",
            || format!("{token}: {}", text("reason")),
        )?;
        let subject = text("subject");
        let expected = format!("the subject {}", self.check.subject);
        expect(subject == self.check.subject, &expected, || {
            subject.to_owned()
        })?;
        Ok(seen)
    }

    /// Returns the redirect target of `page`. Checks that the redirect target is the authorization
    /// endpoint.
    fn authorization_request(&self, page: &Page) -> Result<Url, Mismatch> {
        expect(page.status == StatusCode::SEE_OTHER, "status 303", || {
            summary(page)
        })?;
        let endpoint = without_query(&self.check.authorization_endpoint);
        let location = page.location();
        let got = location
            .as_ref()
            .map_or_else(|| "none".to_owned(), without_query);
        let expected = format!("a redirect to {endpoint}");
        expect(got == endpoint, &expected, || got)?;
        location.ok_or_else(missing_answer)
    }

    fn one_exchange(&self) -> StepResult {
        let seen = (self.check.calls)().exchanges;
        let seen = seen.saturating_sub(self.before.exchanges);
        expect(seen == 1, "one code exchange", || seen.to_string())
    }

    /// Returns the redirect target of the latest answer.
    fn next(&mut self) -> Result<Url, Mismatch> {
        let page = self.page.take().ok_or_else(missing_answer)?;
        page.location().ok_or_else(missing_answer)
    }

    fn at(&self, path: &str) -> Result<Url, Mismatch> {
        self.check
            .public_url
            .join(path)
            .map_err(|_invalid| missing_answer())
    }

    async fn send(&mut self, request: BrowserRequest) -> Result<Page, Mismatch> {
        let sent = self.browser.send(request).await;
        sent.map_err(|error| request_failed(&error))
    }
}

fn browser<E>(check: &Check<E>) -> Browser {
    let hosts = [
        (&check.public_url, check.gateway),
        (&check.authorization_endpoint, check.provider),
    ];
    Browser::new(hosts, check.clock.clone())
}

/// Checks that the answer is 401 with a problem document (RFC 9457).
fn refused(page: &Page) -> StepResult {
    let unauthorized = page.status == StatusCode::UNAUTHORIZED;
    expect(unauthorized, "status 401", || summary(page))?;
    let content_type = page.fields.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("none").to_owned();
    let problem = content_type.starts_with("application/problem+json");
    expect(problem, "application/problem+json", || content_type)
}

/// Describes an answer: its status and its redirect target without the query, because a query can
/// contain secrets.
fn summary(page: &Page) -> String {
    let status = page.status.as_u16();
    match page.location() {
        Some(location) => format!("{status} to {}", without_query(&location)),
        None => format!("{status} from {}", without_query(&page.url)),
    }
}

/// Returns the URL without its query and fragment.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// Returns the names of the parameters without the values, because a value can be a secret.
fn names(query: &[(String, String)]) -> String {
    let names: Vec<&str> = query.iter().map(|(name, _value)| name.as_str()).collect();
    names.join(", ")
}

/// Returns true if `text` has the form of a SHA-256 digest in base64url (RFC 7636 section 4.2).
fn is_digest(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    text.len() == 43 && text.bytes().all(allowed)
}

/// Returns the value of the attribute `name` that is between the text `mark` and the next `>`.
fn attribute(html: &str, mark: &str, name: &str) -> Option<String> {
    let (_before, tag) = html.split_once(mark)?;
    let (tag, _after) = tag.split_once('>')?;
    let (_before, value) = tag.split_once(&format!("{name}=\""))?;
    let (value, _after) = value.split_once('"')?;
    let value = value.replace("&lt;", "<").replace("&gt;", ">");
    let value = value.replace("&quot;", "\"").replace("&#39;", "'");
    // `&amp;` is decoded last, because otherwise `&amp;lt;` would become `<` instead of `&lt;`.
    Some(value.replace("&amp;", "&"))
}
