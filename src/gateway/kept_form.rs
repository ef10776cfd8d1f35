//! Forms that the browser keeps during a login, on routes with `keep_forms`.
//!
//! 1. A form arrives after the session has ended. [`WorkerSite::challenge_or_keep`] reads the form,
//!    seals the form for its user, and answers with a page whose script stores the sealed form in
//!    the storage of the browser tab. Then the login begins.
//! 2. After the login, the browser opens an endpoint of the gateway. A script sends the sealed form
//!    to this endpoint ([`form_endpoint`](super::form_endpoint)), and the gateway shows what the
//!    form contains.
//! 3. If the user confirms, the browser sends the sealed form to the target of the original form.
//!    The gateway decides about this request like about every other request.
//!    [`Worker::with_kept_form`] then opens the form and forwards the original form to the app.
//!    Therefore the answer of the app has the URL that it would have had without the login.
//!
//! The gateway sends no form by itself.

use std::rc::Rc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as _;

use super::body_buffer::BufferSizes;
use super::buffers::Growth;
use super::form_content::{FormKind, size};
use super::form_endpoint::NotSent;
use super::navigation::is_form_post;
use super::page::Page;
use super::request_body::{ForwardedBody, Needed};
use super::request_buffer::REDECIDE_AFTER;
use super::tab_page::InTab;
use super::{
    Body, Error, Record, RequestContext, Step, Worker, WorkerSite, login_failure, sign_in,
};
use crate::access::{Cause, Challenge, Permit, Recent, Route};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::login::{
    self, FormRefusal, KeptForm, LARGEST_FORM, LARGEST_SEALED, ReturnTo, SameOrigin, same_origin,
};
use crate::server::BodyFailure;
use crate::session::{Once, SessionKey};
use crate::upstream::Owner;

/// The beginning of the content with a sealed form which the user sends or discards.
pub(super) const SENT: &[u8] = b"sidegate-form=";

/// The size of the buffer for the first bytes of a body, in bytes.
const FIRST_BYTES: usize = 64 * 1024;

/// A permitted request that may contain a kept form.
pub(super) type Arriving = (RequestContext, (Permit, Timestamp), ForwardedBody, Record);

/// Whether a request on this route may contain a kept form. The content of the request decides.
pub(super) fn may_arrive(parts: &Parts, route: &Route) -> bool {
    route.keeps_forms()
        && parts.method == Method::POST
        && !parts.headers.contains_key(header::EXPECT)
        && FormKind::of(&parts.headers) == Some(FormKind::UrlEncoded)
}

impl Worker {
    /// Forwards a permitted request. If the request contains a kept form, opens the form and
    /// forwards the original form.
    pub(super) async fn with_kept_form(&self, arriving: Box<Arriving>) -> Step<'_> {
        let (mut context, permit, mut body, mut record) = *arriving;
        record.route(permit.0.route(), permit.0.label());
        let site = Rc::clone(record.site());
        let client = permit.0.owner(context.client.address());
        let holds_form = match site.holds_kept_form(&mut body, client).await {
            Ok(holds_form) => holds_form,
            Err(error) => return Step::answered(record.refused(&error, &context.parts.headers)),
        };
        if holds_form && let Err(error) = site.read_form(&mut body, LARGEST_SEALED, client).await {
            return Step::answered(record.refused(&error, &context.parts.headers));
        }
        let later = site.clock().now();
        if later.since(permit.1) >= REDECIDE_AFTER {
            // While the body arrived, the session may have ended.
            drop(permit);
            let head = (&context.parts.method, &context.parts.headers);
            let decision = (site.access).decide(head, &context.target, &Recent::default(), later);
            return Step::boxed(self.answer(context, decision, body, record));
        }
        if !holds_form {
            return self.prepared(context, permit, body, record);
        }
        let sealed = match body.contents().await {
            Ok(sealed) => sealed,
            Err(error) => {
                let error = Error::from(error);
                return Step::answered(record.refused(&error, &context.parts.headers));
            }
        };
        match site.open_sent(&context, permit.0.identity(), &sealed).await {
            Ok(form) => {
                restore_fields(&mut context.parts.headers, &form);
                body.replace(site.buffer(sizes(LARGEST_FORM, client)), form.body);
                self.forward(context, permit, body, record)
            }
            Err(not_sent) => {
                let page = not_sent.page().respond(&context.parts.headers);
                Step::answered(record.answered(page))
            }
        }
    }
}

impl WorkerSite {
    /// Answers a request that needs a sign-in. A form of a route with `keep_forms` is kept.
    pub(super) async fn challenge_or_keep(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
        mut body: ForwardedBody,
    ) -> Result<Response<Body>, Error> {
        let Some(kind) = may_keep(context, challenge) else {
            return Ok(self.challenge(context, challenge).await);
        };
        let headers = &context.parts.headers;
        let Some(owner) = self.login().form_owner(context.login_origin()) else {
            return Ok(
                not_kept(challenge, &NO_OWNER, &self.page_with_form(context)).respond(headers),
            );
        };
        let client = Owner::new(None, context.client.address());
        // The session may have ended again before the user has confirmed the form.
        let is_again =
            kind == FormKind::UrlEncoded && self.holds_kept_form(&mut body, client).await?;
        let limit = if is_again {
            LARGEST_SEALED
        } else {
            self.largest_form(&challenge.route)
        };
        match self.read_form(&mut body, limit, client).await {
            Ok(()) => {}
            Err(Error::RequestBody(BodyFailure::TooLarge)) => {
                let limit = self.largest_form(&challenge.route);
                let limit = size(usize::try_from(limit).unwrap_or(usize::MAX));
                let page = not_kept(challenge, &TOO_LARGE, &self.page_with_form(context));
                let limit = format!("With its files, a form can have up to {limit}.");
                return Ok(page.paragraph(limit).respond(headers));
            }
            Err(error) => return Err(error),
        }
        let body = body.contents().await?;
        let form = if is_again {
            let text = body.strip_prefix(SENT).unwrap_or_default();
            match self
                .login()
                .open_form_again(text, &context.public_url, owner)
            {
                Ok(form) => Ok(form),
                Err(refusal) => return Ok(NotSent::from(refusal).page().respond(headers)),
            }
        } else {
            KeptForm::new(owner, sent(context), body, self.clock().now())
        };
        let sealed = form.and_then(|form| self.login().seal_form(&form, &context.public_url));
        let answer = match sealed {
            Ok(form) => {
                let (return_to, in_tab) = (form.return_to.clone(), InTab::Form(form));
                self.begin_login(context, challenge, (return_to, Some(in_tab)))
                    .await
            }
            Err(error) => {
                let provider = sign_in::only_provider(&challenge.route).unwrap_or_default();
                let failed = (provider, &login::Error::from(error));
                login_failure::not_started(context, failed, Some(challenge.cause), "/", None)
            }
        };
        self.counted(answer, client)
    }

    /// Returns the `Set-Cookie` value that states to whom the forms of a new session belong, if a
    /// route keeps forms.
    pub(super) fn form_owner_cookie(
        &self,
        context: &RequestContext,
        session: (&SessionKey, &Identity),
    ) -> Option<HeaderValue> {
        let login = (self.access.keeps_forms()).then(|| self.login())?;
        login.form_owner_cookie(session, &context.public_url)
    }

    /// Returns the largest content of a form that this route keeps, in bytes.
    fn largest_form(&self, route: &Route) -> u64 {
        let limit = LARGEST_FORM.min(self.settings().body_bytes);
        if route.buffers().whole_request {
            limit.min(route.buffers().largest_request())
        } else {
            limit
        }
    }

    /// Whether a body begins like a kept form that the user has sent. No byte of the body is lost.
    async fn holds_kept_form(
        &self,
        body: &mut ForwardedBody,
        client: Owner,
    ) -> Result<bool, Error> {
        let first = BufferSizes {
            memory: FIRST_BYTES,
            file: 0,
            client,
        };
        let begins = body.begins_with(SENT, self.buffer(first)).await;
        begins.map_err(Error::RequestBody)
    }

    /// Counts the page of an answer as buffered memory of `client` until the client has read the page.
    /// A page with a sealed form is large, and a client could read many such pages slowly.
    ///
    /// # Errors
    ///
    /// [`Error::BuffersFull`] if the client has used its part of the memory for buffers.
    pub(super) fn counted(
        &self,
        answer: Response<Body>,
        client: Owner,
    ) -> Result<Response<Body>, Error> {
        let length = answer.body().size_hint().exact().unwrap_or_default();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut memory = self.reservation(client);
        if memory.growth(usize::MAX, length) != Growth::Allowed {
            return Err(Error::BuffersFull);
        }
        memory.add(length);
        Ok(answer.map(|body| body.counted(memory)))
    }

    /// Reads the whole body into a buffer. `limit` is the largest number of bytes.
    pub(super) async fn read_form(
        &self,
        body: &mut ForwardedBody,
        limit: u64,
        client: Owner,
    ) -> Result<(), Error> {
        let rest = limit.checked_sub(body.buffered());
        let rest = rest.ok_or(Error::RequestBody(BodyFailure::TooLarge))?;
        body.rest_mut().limit(rest).map_err(Error::RequestBody)?;
        let buffer = self.buffer(sizes(limit, client));
        Ok(body.buffer(buffer, Needed::Whole).await?)
    }

    /// Opens a kept form that the user has confirmed, and marks the form as used.
    async fn open_sent(
        &self,
        context: &RequestContext,
        user: Option<&Identity>,
        body: &[u8],
    ) -> Result<KeptForm, NotSent> {
        // Without the check of the origin, another site could send a form that the user has not
        // confirmed, on a route that allows requests of other sites.
        if same_origin(&context.parts.headers, &context.public_url) == SameOrigin::No {
            return Err(NotSent::CrossOrigin);
        }
        let form = self.opened(context, user, body.strip_prefix(SENT))?;
        // The page of the gateway sends the form to its original target.
        if *form.target != *context.target.path_and_query().as_str() {
            return Err(FormRefusal::Unknown.into());
        }
        self.use_up(&form).await?;
        Ok(form)
    }

    /// Opens a sealed form of `user`.
    pub(super) fn opened(
        &self,
        context: &RequestContext,
        user: Option<&Identity>,
        text: Option<&[u8]>,
    ) -> Result<KeptForm, FormRefusal> {
        let user = user.ok_or(FormRefusal::OtherUser)?;
        let text = text.unwrap_or_default();
        self.login().open_form(text, &context.public_url, user)
    }

    /// Marks a form as used.
    pub(super) async fn use_up(&self, form: &KeptForm) -> Result<(), NotSent> {
        match self.login().use_up_form(form).await? {
            Once::First => Ok(()),
            Once::Repeated => Err(FormRefusal::Used.into()),
        }
    }

    /// Returns the page from which the user sent a form that is not kept.
    fn page_with_form(&self, context: &RequestContext) -> ReturnTo {
        context.referrer(self.own()).unwrap_or_else(ReturnTo::root)
    }
}

/// Returns the type of the form in a request, if the form must be kept. Only a form of a page of the
/// same origin is kept, so that no other site can prepare a form for the user.
fn may_keep(context: &RequestContext, challenge: &Challenge) -> Option<FormKind> {
    let parts = &context.parts;
    let is_over = match challenge.cause {
        Cause::Expired
        | Cause::GrantEnded
        | Cause::NoCookie
        | Cause::OtherInstance
        // The session continues, but the user of the session has to sign in again for this route.
        | Cause::Paused
        | Cause::RefusedByApp
        | Cause::SignInTooOld
        | Cause::TokenExpired
        | Cause::Unknown => true,
        // The session is valid, or nobody knows whose session it was.
        Cause::Conflicting | Cause::Malformed | Cause::OtherProvider | Cause::Unreachable => false,
    };
    let is_kept = is_over
        && challenge.route.keeps_forms()
        && context.auth_check.is_none()
        && context.upgrade.is_none()
        && is_form_post(parts)
        // A user whose session has ended is already signed out.
        && challenge.route.app_sign_out() != Some(context.target.path())
        && same_origin(&parts.headers, &context.public_url) == SameOrigin::Yes;
    FormKind::of(&parts.headers).filter(|_kind| is_kept)
}

/// Returns the target of a form, and the values of `Content-Type` and `Referer`.
fn sent(context: &RequestContext) -> (&str, &str, Option<&str>) {
    let value = |name| {
        let value: Option<&HeaderValue> = context.parts.headers.get(name);
        value.and_then(|value| value.to_str().ok())
    };
    (
        context.target.path_and_query().as_str(),
        value(header::CONTENT_TYPE).unwrap_or_default(),
        value(header::REFERER),
    )
}

/// Gives a request the fields of the original form. An app that returns to the page in `Referer`
/// must not return to the page of the gateway.
fn restore_fields(headers: &mut HeaderMap, form: &KeptForm) {
    if let Ok(kind) = HeaderValue::try_from(&*form.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(form.body.len()));
    let referrer = form.referrer.as_deref();
    match referrer.and_then(|referrer| HeaderValue::try_from(referrer).ok()) {
        Some(referrer) => headers.insert(header::REFERER, referrer),
        None => headers.remove(header::REFERER),
    };
}

fn sizes(limit: u64, client: Owner) -> BufferSizes {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    BufferSizes {
        // In the buffer, a body takes up to an eighth more memory than the length of its content.
        memory: limit.saturating_add(limit / 4),
        file: 0,
        client,
    }
}

/// The reason why a form is not kept: the status, the reason code and the text of the page.
type NotKept = (StatusCode, &'static str, &'static str);

const TOO_LARGE: NotKept = (
    StatusCode::PAYLOAD_TOO_LARGE,
    "form_too_large",
    "The form is too large, so it was not kept.",
);

const NO_OWNER: NotKept = (
    StatusCode::UNAUTHORIZED,
    "form_without_owner",
    "The form was not kept, because this browser no longer knows to which account it belongs.",
);

/// Returns the page for a form that is not kept. `form_page` is the page from which the form was sent.
fn not_kept(challenge: &Challenge, why: &NotKept, form_page: &ReturnTo) -> Page {
    let (status, reason, text) = *why;
    tracing::debug!(
        reason,
        cause = challenge.cause.reason(),
        route = challenge.route.name(),
        "Form not kept"
    );
    let intro = "You are not signed in, or your session has ended, so the app did not get the form \
                 that you sent.";
    Page::new(status, "Your form was not kept", intro)
        .paragraph(text)
        .paragraph(
            "Go back and copy what you typed before you sign in. Then sign in and send the form \
             again.",
        )
        .with_reason(reason)
        .link("Sign in", form_page.as_str())
}
