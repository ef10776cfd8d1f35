//! Permits, which allow requests to be forwarded.

use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};

use super::destination::Destination;
use super::{Access, CacheSetting, OnRefusal, Route, SentRequest};
use crate::fields::cookie::{self as cookies, Others};
use crate::fields::{SharedCaching, UpgradeRequest, View};
use crate::identity::Identity;
use crate::session::{Session, cookie};
use crate::telemetry::DecisionLabel;
use crate::upload::Upload;
use crate::upstream::{
    self, AssertionNames, Authorization, Exchange, Owner, Pools, Requester, ResponseFuture,
    assertions,
};

/// The proof that one request may be sent to one upstream, with or without a user. Only [`Access`]
/// creates permits.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    pub(super) access: Rc<Access>,
    pub(super) route: Rc<Route>,
    pub(super) session: Option<Arc<Session>>,
    pub(super) cookies: Cookies,
}

/// The client of a request. The queue for the app's connections distinguishes requests by client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestClient {
    /// The address of the client. If the request has no session, the address identifies the client.
    pub(crate) address: IpAddr,
    /// Whether the request is a stream of messages, in which the client may be silent for a long
    /// time.
    pub(crate) streams: bool,
}

/// States whether the request's cookies have already been read.
#[derive(Debug)]
pub(super) enum Cookies {
    /// An earlier request on the connection had the same `Cookie` line. The variant `Read` contains
    /// the `Cookie` line without the gateway's own cookies.
    Read(Option<HeaderValue>),
    /// The gateway has not read the `Cookie` lines yet. The request can still contain the gateway's
    /// own cookies.
    Unread,
}

impl Permit {
    /// The route of the request.
    pub fn route(&self) -> &Rc<Route> {
        &self.route
    }

    /// The decision about the request, as a label of metrics and events.
    pub(crate) fn label(&self) -> DecisionLabel {
        label(&self.route, self.session.as_deref())
    }

    /// The identity of the user, if the request belongs to a session.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.session.as_deref().map(Session::identity)
    }

    /// The client to which the request belongs. `address` is the address of the client.
    pub(crate) fn owner(&self, address: IpAddr) -> Owner {
        let session = self.session.as_ref();
        Owner::new(session.map(|session| session.key().as_bytes()), address)
    }

    /// States whether shared caches may store the answer. On a public route, the app gets the
    /// identity of a signed-in user, so only the answer to a request without a session is the same
    /// for everybody.
    pub(crate) fn shared_caching(&self) -> SharedCaching {
        let is_for_everybody = self.session.is_none() && self.route.is_public();
        if is_for_everybody || self.route.cache == CacheSetting::Pass {
            SharedCaching::AsWritten
        } else {
            SharedCaching::Forbidden
        }
    }

    /// Returns the data that the gateway needs if the app refuses the token. With this data, the
    /// gateway sends the request again or lets the user sign in again. Returns `None` if the
    /// gateway can neither send the request again nor let the user sign in again.
    pub(crate) fn sent_request(&self) -> Option<SentRequest> {
        let session = self.session.as_ref()?;
        // If the gateway sends no token to the app, the app cannot refuse a token.
        if !self.route.fields.sends_token() {
            return None;
        }
        // `OnRefusal::Pass` allows a second attempt only with an access token that is newer than
        // the refused access token. A session without a refresh token never gets a newer access
        // token.
        let wanted =
            self.route.on_refusal != OnRefusal::Pass || session.tokens().refresh_token().is_some();
        wanted.then(|| SentRequest {
            route: Rc::clone(&self.route),
            session: Arc::clone(session),
        })
    }

    /// Returns the fields with a value that the gateway writes: assertion fields, the signed
    /// assertion and credentials. `request` contains the method and the canonical authority.
    pub fn fields(&self, request: (&Method, &HeaderValue)) -> Vec<(HeaderName, HeaderValue)> {
        let groups = self.groups();
        let fields = self.assertions(&groups);
        let fields = fields.filter_map(|(name, value)| Some((name.clone(), value?.clone())));
        let more = groups.iter().skip(1);
        let name = self.names().groups.as_ref();
        let more = more.filter_map(|value| Some((name?.clone(), value.clone())));
        let computed = self.computed().into_iter();
        let computed = computed.filter_map(|(name, value)| Some((name.clone(), value?)));
        let signed = self.route.fields.signed.iter();
        let signed = signed.filter_map(|assertion| {
            Some((assertion.field().clone(), self.signed(assertion, request)?))
        });
        fields.chain(more).chain(computed).chain(signed).collect()
    }

    /// Writes the assertion fields, removes the gateway's own cookies, and sends the request to the
    /// upstream. The permit is consumed. Before the call, the caller must remove the assertion
    /// fields that the client sent.
    ///
    /// `client` is the sender of the request. All clients share the connections to an app.
    ///
    /// `upgrade` is the protocol to which the request asks to switch. If the app switches to the
    /// protocol in `upgrade`, this function returns a tunnel. If the app does not switch to the
    /// protocol in `upgrade`, this function returns the response of the app.
    ///
    /// # Errors
    ///
    /// [`crate::upstream::Error`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the upstream connection. The caller must assume that the app has
    /// processed the request, even if the future was never polled.
    pub(crate) fn exchange(
        mut self,
        mut request: Request<Upload>,
        client: RequestClient,
        upgrade: Option<Box<UpgradeRequest>>,
        pools: &Pools,
    ) -> Exchanging<'_> {
        self.write(request.headers_mut());
        self.write_signed(&mut request);
        let Destination::App(upstream) = &self.route.destination else {
            return Exchanging::NoApp;
        };
        let requester = Requester {
            owner: self.owner(client.address),
            stream: client.streams || upgrade.is_some() || self.route.is_stream,
        };
        match upgrade {
            None => Exchanging::Response(pools.send(upstream, requester, request)),
            Some(upgrade) => {
                let upstream = Arc::clone(upstream);
                Exchanging::Switch(Box::pin(async move {
                    let switching = pools.switch(&upstream, requester, request, upgrade);
                    switching.await
                }))
            }
        }
    }

    /// Writes the fields of the gateway into a request, except signed assertions, and removes the
    /// gateway's own cookies.
    pub(crate) fn write(&mut self, headers: &mut HeaderMap) {
        match self.cookies_left(headers) {
            Others::Unchanged => {}
            Others::Line(line) => write_or_remove(headers, &header::COOKIE, Some(line)),
            Others::None => write_or_remove(headers, &header::COOKIE, None),
        }
        let groups = self.groups();
        // A call of `for_each` on a chain of iterators is faster than a `for` loop.
        self.assertions(&groups)
            .for_each(|(name, value)| write_or_remove(headers, name, value.cloned()));
        if let (Some(name), [_, more @ ..]) = (&self.names().groups, &*groups) {
            for value in more {
                headers.append(name, value.clone());
            }
        }
        if self.route.fields.computed.is_some() {
            for (name, value) in self.computed() {
                write_or_remove(headers, name, value);
            }
        }
        if let Some(rewrite) = &self.route.rewrite {
            rewrite.write(headers);
        }
    }

    fn names(&self) -> &AssertionNames {
        &self.route.fields.names
    }

    /// Returns every computed field with its value. If a field has no value, the request must not
    /// contain the field.
    #[cold]
    pub(super) fn computed(&self) -> Vec<(&HeaderName, Option<HeaderValue>)> {
        let Some(fields) = &self.route.fields.computed else {
            return Vec::new();
        };
        let Some(session) = self.session.as_deref() else {
            return fields.names().map(|name| (name, None)).collect();
        };
        let values = session.computed_fields(fields.id(), || {
            let now = self.access.refresher.clock().now();
            fields.values(session.identity(), session.tokens(), now)
        });
        fields.names().zip(values.iter().cloned()).collect()
    }

    /// Returns the values of the groups field. If the groups do not all fit into the field, the
    /// gateway logs at most one warning per user and hour.
    pub(super) fn groups(&self) -> Cow<'_, [HeaderValue]> {
        if self.names().groups.is_none() {
            return Cow::Borrowed(&[]);
        }
        self.formed_groups()
    }

    /// Returns the groups of the user in the form of the groups field, even if the app gets no groups
    /// field. If the groups do not all fit, the gateway logs at most one warning per user and hour.
    pub(crate) fn formed_groups(&self) -> Cow<'_, [HeaderValue]> {
        let Some(session) = self.session.as_deref() else {
            return Cow::Borrowed(&[]);
        };
        let report = |left_out| self.report_groups(session, left_out);
        let form = self.names().groups_form;
        session.identity().groups.field(form, report)
    }

    /// Reports the number of groups that the app does not get. An explanation reports nothing, because
    /// the next report about the same user would then be left out.
    pub(super) fn report_groups(&self, session: &Session, left_out: usize) {
        if left_out > 0 && !session.is_imagined() {
            self.access.refresher.report_groups(session, left_out);
        }
    }

    /// Returns true if the app gets the client's own `Authorization`.
    pub(crate) fn passes_authorization(&self) -> bool {
        self.route.fields.authorization == Authorization::OfClient
    }

    /// Returns the value of the `Cookie` field for the app: the cookies of the request without the
    /// gateway's own cookies. The value is empty if no cookie is left.
    pub(crate) fn cookies_for_app(&mut self, headers: &HeaderMap) -> HeaderValue {
        let left = match self.cookies_left(headers) {
            Others::Line(line) => Some(line),
            Others::None => None,
            Others::Unchanged => headers.get(header::COOKIE).cloned(),
        };
        let mut left = left.unwrap_or(HeaderValue::from_static(""));
        left.set_sensitive(true);
        left
    }

    /// Returns the cookies of the request without the gateway's own cookies.
    pub(super) fn cookies_left(&mut self, fields: &(impl View + ?Sized)) -> Others {
        match std::mem::replace(&mut self.cookies, Cookies::Unread) {
            Cookies::Read(Some(line)) => Others::Line(line),
            Cookies::Read(None) => Others::None,
            Cookies::Unread => cookies::others(fields, cookie::is_own),
        }
    }

    /// Returns every assertion field and `Authorization` with their values. The client's
    /// `Authorization` is not one of the returned fields. The groups field gets the first value in
    /// `groups`. If a field has no value, the request must not contain the field.
    pub(super) fn assertions<'a>(
        &'a self,
        groups: &'a [HeaderValue],
    ) -> impl Iterator<Item = (&'a HeaderName, Option<&'a HeaderValue>)> {
        let (session, names) = (self.session.as_deref(), self.names());
        let identity = self.identity();
        let bearer = || session.map(|session| session.tokens().bearer());
        let authorization = match self.route.fields.authorization {
            Authorization::AccessToken => Some((&header::AUTHORIZATION, bearer())),
            Authorization::OfClient => None,
            Authorization::Removed => Some((&header::AUTHORIZATION, None)),
        };
        // The gateway looks up the provider's name only if the settings name a field for the
        // provider's name.
        let told = session.filter(|_session| names.provider.is_some());
        let provider = told.and_then(|session| self.route.provider(session.provider()));
        assertions(names, identity, groups, provider).chain(authorization)
    }
}

/// The future that returns the app's answer to a forwarded request.
pub(crate) enum Exchanging<'p> {
    /// The future of the answer to a request that does not ask for a switch to another protocol.
    Response(ResponseFuture),
    /// The route has no app, because another proxy forwards the requests of the route.
    NoApp,
    /// The future of a request that asks for a switch to another protocol.
    Switch(Pin<Box<dyn Future<Output = Result<Exchange, upstream::Error>> + 'p>>),
}

impl Future for Exchanging<'_> {
    type Output = Result<Exchange, upstream::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Response(response) => Pin::new(response).poll(cx).map_ok(Exchange::Response),
            Self::NoApp => Poll::Ready(Err(upstream::Error::NoApp)),
            Self::Switch(switching) => switching.as_mut().poll(cx),
        }
    }
}

/// Returns the label of the decision that permits a request of `route`.
pub(super) fn label(route: &Route, session: Option<&Session>) -> DecisionLabel {
    if session.is_some_and(|session| route.would_refuse(session)) {
        DecisionLabel::WouldForbid
    } else {
        DecisionLabel::Permit
    }
}

pub(super) fn write_or_remove(
    headers: &mut HeaderMap,
    name: &HeaderName,
    value: Option<HeaderValue>,
) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}
