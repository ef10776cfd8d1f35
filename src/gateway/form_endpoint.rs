//! The endpoint of a form that the browser has kept during a login: a page on which the user sends
//! or discards the form.

use std::borrow::Cow;

use http::{Response, StatusCode};

use super::form_content::{FormFields, FormKind, shown, size};
use super::kept_form::SENT;
use super::own_sessions::ago;
use super::page::{Action, Item, Page};
use super::request_body::ForwardedBody;
use super::script::Script;
use super::sign_in::SignInRequest;
use super::{Body, Error, RequestContext, WorkerSite, is_prefetch, refuse_prefetch, see_other};
use crate::identity::Identity;
use crate::login::{
    self, FormRefusal, KeptForm, LARGEST_SEALED, ReturnTo, SameOrigin, TabForm, same_origin,
};
use crate::server::RequestBody;
use crate::upstream::Owner;

/// The script that stores the sealed form.
const KEEP: &str = include_str!("keep_form.js");

/// The script that sends the sealed form back.
const RESTORE: &str = include_str!("restore_form.js");

/// The name of the field that contains a sealed form which the user sends or discards.
const FIELD: &str = "sidegate-form";

/// The beginning of the content with a sealed form which a script sends back.
const RESTORED: &[u8] = b"show=";

impl WorkerSite {
    /// Returns the page whose script sends the kept form with the name `name` back. Returns `None`
    /// if no kept form can have this name.
    pub(super) async fn kept_form(
        &self,
        context: &RequestContext,
        name: &str,
    ) -> Option<Response<Body>> {
        let headers = &context.parts.headers;
        let endpoint = self.login().kept_form_page(name)?;
        if is_prefetch(headers) {
            return Some(refuse_prefetch(headers));
        }
        let now = self.clock().now();
        let session = self.access.live_session_of(context.session_origin(), now);
        if let Err(cause) = session.await {
            // The form stays in the storage of the tab until the user has signed in.
            let request = SignInRequest::to_return(endpoint);
            let text = "You are not signed in. After the sign-in, you can send your form.";
            let page = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
                .with_reason(cause.reason())
                .link(
                    "Sign in",
                    request.address(self.login(), &context.public_url),
                );
            return Some(page.respond(headers));
        }
        let text = "Your browser opens the form that you sent. If this page stays, your browser has \
                    not kept the form: it runs no scripts, it stores no data for this site, or you \
                    sent the form in another tab. Then send the form again from its page.";
        let mut page = Page::new(StatusCode::OK, "Your form opens", text)
            .link("Go to the start page", "/")
            .instead_of_redirect();
        page.script = Some(Script {
            source: RESTORE,
            data: vec![
                ("name", name.to_owned()),
                ("path", endpoint.as_str().to_owned()),
            ],
            otherwise: None,
        });
        Some(page.respond(headers))
    }

    /// Answers a request that sends a sealed form to the endpoint with the name `name`: shows what
    /// the form contains, or discards the form.
    pub(super) async fn posted_form(
        &self,
        context: &RequestContext,
        name: &str,
        body: RequestBody,
    ) -> Result<Response<Body>, Error> {
        let headers = &context.parts.headers;
        let endpoint = self.login().kept_form_page(name).ok_or(Error::NoRoute)?;
        if same_origin(headers, &context.public_url) == SameOrigin::No {
            return Ok(NotSent::CrossOrigin.page().respond(headers));
        }
        let now = self.clock().now();
        let session = self.access.live_session_of(context.session_origin(), now);
        let session = match session.await {
            Ok(session) => session,
            Err(cause) => {
                let text = "You are not signed in. Sign in in another tab, and then load this page \
                            again.";
                let page = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text);
                return Ok(page.with_reason(cause.reason()).respond(headers));
            }
        };
        if FormKind::of(headers) != Some(FormKind::UrlEncoded) {
            return Err(Error::NoForm);
        }
        let client = Owner::new(Some(session.key().as_bytes()), context.client.address());
        let mut body = ForwardedBody::new(body);
        self.read_form(&mut body, LARGEST_SEALED, client).await?;
        let body = body.contents().await?;
        let user = session.identity();
        let answer = match body.strip_prefix(RESTORED) {
            Some(text) => self.shown_form(context, user, (&endpoint, text)).await,
            None => match self.discard(context, user, body.strip_prefix(SENT)).await {
                Ok(form) => return Ok(see_other(&self.page_of_form(context, &form), [])),
                Err(not_sent) => not_sent.page(),
            },
        };
        self.counted(answer.respond(headers), client)
    }

    /// Marks a form as used, so that the form cannot be sent.
    async fn discard(
        &self,
        context: &RequestContext,
        user: &Identity,
        text: Option<&[u8]>,
    ) -> Result<KeptForm, NotSent> {
        let form = self.opened(context, Some(user), text)?;
        self.use_up(&form).await?;
        Ok(form)
    }

    async fn shown_form(
        &self,
        context: &RequestContext,
        user: &Identity,
        (endpoint, text): (&ReturnTo, &[u8]),
    ) -> Page {
        let form = match self.opened(context, Some(user), Some(text)) {
            Ok(form) => form,
            Err(refusal) => return NotSent::from(refusal).page(),
        };
        let page = self.confirmation(context, (endpoint, text), &form).await;
        match user.label() {
            Some(name) => page.paragraph(format!("You are signed in as {name}.")),
            None => page,
        }
    }

    /// Returns the page on which the user decides whether the app gets the form. The page shows no
    /// values of the form. `text` is the sealed form.
    async fn confirmation(
        &self,
        context: &RequestContext,
        (endpoint, text): (&ReturnTo, &[u8]),
        form: &KeptForm,
    ) -> Page {
        let path = form.target.split('?').next().unwrap_or_default();
        // After a reload, no route may keep forms, and the app would get the sealed form.
        if !(self.access).keeps_forms_at(context.target.authority(), path) {
            return NotSent::from(FormRefusal::Unknown).page();
        }
        let target = [context.public_url.origin(), &form.target].concat();
        let now = self.clock().now();
        let intro = "Your session had ended when you sent this form, so the app did not get the \
                     form. The app gets the form only if you send the form now.";
        let mut page = Page::new(StatusCode::OK, "Send your form?", intro).paragraph(format!(
            "You sent the form {} to {}. The values that you typed are not shown here.",
            ago(now, form.kept_at),
            shown(&target)
        ));
        let fields = FormFields::of(&form.content_type, form.body.clone()).await;
        let fields = fields.unwrap_or_else(|| {
            page.text.push(format!(
                "The fields of the form cannot be listed. The form has {}.",
                size(form.body.len())
            ));
            FormFields::default()
        });
        page.items = fields
            .listed
            .into_iter()
            .map(|field| Item {
                title: field.name,
                mark: None,
                details: vec![field.value],
                action: None,
            })
            .collect();
        if fields.others > 0 {
            let others = format!("The form has {} more fields.", fields.others);
            page.text.push(others);
        }
        // A text that the gateway has sealed contains only ASCII characters.
        let text: Cow<'_, str> = String::from_utf8_lossy(text);
        page.actions.push(Action::Send {
            action: target,
            label: "Send the form",
            field: (FIELD, text.into_owned()),
            other: (endpoint.as_str().to_owned(), "Discard the form"),
        });
        page
    }

    /// Returns the URL of the page from which the user sent the form, or of the start page.
    fn page_of_form(&self, context: &RequestContext, form: &KeptForm) -> String {
        let page = form.referrer.as_deref();
        let page = page.and_then(|page| ReturnTo::in_link(page, &context.public_url, self.own()));
        let page = page.unwrap_or_else(ReturnTo::root);
        page.absolute(context.public_url.origin())
    }
}

/// Adds the script that stores `form`. If `next` is a URL, the script then opens this URL. Without
/// the script, the page stays, because the sign-in would lose the form.
pub(super) fn keep_form(page: Page, form: TabForm, next: Option<String>) -> Page {
    let mut page = page.paragraph(
        "The app did not get the form that you sent. Your browser keeps the encrypted form in this \
         tab. After the sign-in with the same account, you can send the form.",
    );
    page = page.paragraph(
        "A browser that runs no scripts or stores no data for this site cannot keep the form. Then \
         go back and copy what you typed before you sign in.",
    );
    let mut data = vec![("name", form.name.into_string()), ("form", form.sealed)];
    data.extend(next.map(|next| ("next", next)));
    page.script = Some(Script {
        source: KEEP,
        data,
        otherwise: None,
    });
    page
}

/// The reason why the app does not get a kept form.
#[derive(Debug)]
pub(super) enum NotSent {
    /// A page of another site has caused the request. Responsible: the client.
    CrossOrigin,
    /// The form is refused. Responsible: the client.
    Refused(FormRefusal),
    /// The store cannot mark the form as used. Responsible: the gateway.
    Store(login::Error),
}

impl From<FormRefusal> for NotSent {
    fn from(refusal: FormRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<login::Error> for NotSent {
    fn from(error: login::Error) -> Self {
        Self::Store(error)
    }
}

impl NotSent {
    /// Returns the page that tells the user the reason.
    pub(super) fn page(&self) -> Page {
        let (status, reason, text) = match self {
            Self::CrossOrigin => (
                StatusCode::FORBIDDEN,
                "cross_origin",
                "Another site tried to send a form, so the request was ignored.",
            ),
            Self::Refused(FormRefusal::Expired) => (
                StatusCode::BAD_REQUEST,
                "form_expired",
                "The form is older than one hour. Send the form again from its page.",
            ),
            Self::Refused(FormRefusal::OtherUser) => (
                StatusCode::FORBIDDEN,
                "form_of_other_user",
                "The form belongs to another account than the account with which you have signed \
                 in.",
            ),
            Self::Refused(FormRefusal::Unknown) => (
                StatusCode::BAD_REQUEST,
                "form_unknown",
                "This site did not keep this form, or the form was changed. Send the form again \
                 from its page.",
            ),
            Self::Refused(FormRefusal::Used) => (
                StatusCode::BAD_REQUEST,
                "form_used",
                "The form was already sent or discarded. A form can be sent one time.",
            ),
            Self::Store(error) => (
                StatusCode::SERVICE_UNAVAILABLE,
                error.reason(),
                "This site cannot read or write its stored sessions. Load this page again in a \
                 moment.",
            ),
        };
        Page::new(status, "Your form was not sent", text)
            .with_reason(reason)
            .link("Go to the start page", "/")
    }
}
