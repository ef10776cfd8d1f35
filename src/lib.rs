//! Sidegate is a reverse proxy that signs users in.
//!
//! An app behind Sidegate needs no code for OAuth. Sidegate exchanges the authorization code for a
//! token set and stores the token set with the session. By default, each request of a signed-in
//! user to the app contains the access token in the `Authorization` field.
//!
//! This page describes the structure of the crate. A module may use only modules of a lower layer.
//! Modules of the same layer may not use each other. A test enforces these rules about modules and
//! layers.
//!
//! | layer | modules | what they contain |
//! | --- | --- | --- |
//! | 0 | [`secret`] [`clock`] [`network`] | values that are never printed; the time, as an argument; the networks of clients |
//! | 1 | [`telemetry`] | events, access log and metrics |
//! | 2 | [`seal`] [`tls`] [`identity`] [`token`] [`fields`] [`target`] [`upload`] [`relay`] | keys and sealed data; certificates; the identity of a user; the token set; HTTP fields; the canonical request target; the body of a forwarded request; bytes between two connections after a switch of protocols |
//! | 3 | [`origin`] [`server`] | the HTTP client and its pool; listeners, framing, deadlines and drain; these two modules know nothing about authentication |
//! | 4 | [`provider`] [`session`] [`upstream`] | the authorization server: metadata, keys, tokens, identities; the sessions; the app |
//! | 5 | [`access`] [`login`] | routes, rules, decisions and refreshes; the code flow, pending logins and sign-out |
//! | 6 | [`gateway`] [`admin`] | the handling of a request, and its answers; health, metrics and the admin socket |
//! | 7 | [`config`] [`import`] | settings file, variables and flags; one error reports all problems; the check over the network; the conversion of the settings of oauth2-proxy |
//! | 8 | [`instance`] [`snippet`] | one running gateway, made from all other modules; the configuration of another proxy that asks for auth checks |
//! | 9 | [`demo`] | an authorization server and an app inside the program, for demonstrations and for tests |
//!
//! # One site
//!
//! One immutable value, the [`gateway::Site`], contains everything that is made from the settings:
//! routes and rules, upstreams, providers, the login flow, public URLs, trusted networks, assertion
//! fields. If any part of a new site cannot be built, the old site stays in use. Each worker has
//! its own `Rc` of the site. After a reload, the worker uses the new site. A request uses one site
//! until the request ends, and an [`access::Permit`] owns all data that the permit needs.
//! [`gateway::ProcessState`] and [`login::ProcessState`] contain the data that lasts longer than a
//! site: sessions, used states, refreshes in progress, metrics.
//!
//! # Two planes
//!
//! The data plane consists of the workers ([`server::Workers`]). Each worker is one thread with its
//! own runtime and its own connections to the apps ([`upstream::Pools`]). Workers share the session
//! cache and the metrics, and take no lock, unless a request has to wait for a connection to its
//! app. The control plane is one small runtime with several threads ([`instance`]), for all tasks
//! that talk to a provider. A worker waits for the result of a task of the control plane. A task of
//! the control plane finishes even if the browser disconnects. [`session::Sessions`] is a cache in
//! front of a store. The local store has one thread, which the code calls the keeper. The keeper
//! first commits a change of a session, then updates the cache, and then answers the caller.
//! The shared store keeps the sessions in Redis or Valkey. Its thread has the connection to the
//! server, and heartbeats show whether the cache has missed a change of another process.
//!
//! # One request
//!
//! 1. [`server`] accepts the connection, reads the PROXY header of a listed load balancer, decrypts
//!    TLS and reads HTTP. Each phase of a connection has a deadline.
//!
//! 2. [`target::Target::from_request`] makes the target canonical. All later steps use the
//!    canonical bytes of the target to match, authorize, log and forward the request. A path that
//!    apps read in different ways is refused, unless the routes allow its unusual forms
//!    ([`target::Forms`]).
//!    [`login::PublicUrls`] checks whether the host of the request is a public host of the gateway.
//!    [`fields::forwarded`] finds the address of the client.
//!
//! 3. [`fields::inbound`] removes the hop-by-hop fields, and all spellings of the fields that only
//!    the gateway may write. Steps 3, 5 and 7 read the fields through [`fields::View`], which
//!    needs no second map of the fields.
//!
//! 4. [`login`] answers requests for the gateway's own endpoints below the prefix
//!    `login.own_prefix`.
//!
//! 5. [`access::Access::decide`] finds the route, the session and the rule. A request whose token
//!    has expired waits for the refresh, for a limited time ([`access::Wait`]).
//!
//! 6. The [`gateway`] turns the [`access::Decision`] into an answer. If a login is needed, a page
//!    load (navigation) is redirected to the provider, or to a page where the user chooses a
//!    provider. On a route with `keep_fragment`, the page load gets a page whose script stores the
//!    address and then opens the provider. On a route with `keep_forms`, a form of a user whose
//!    session has ended gets a page whose script stores the sealed form. A request that is not a
//!    page load gets 401 with a `login_url`. A user without permission gets 403. An unsafe request
//!    that a page of another site caused also gets 403. A public route forwards such a request
//!    without the session. A request that matches no route gets 404. If a session is temporarily
//!    unusable, the client gets 503 with `Retry-After`.
//!
//! 7. [`access::Permit::exchange`] removes the gateway's cookies, writes the assertion fields and
//!    the credentials of the route ([`upstream::assertions`]), and sends the request on a pooled
//!    connection. If the app knows the route by another prefix, the app gets the path with this
//!    prefix. A route with a static answer has no app, and no permit exists for such a route.
//!    The gateway forwards no request of a route that only answers auth checks.
//!    The client's `Authorization` reaches only an app of a public route. Bodies stream in both
//!    directions, with buffers of limited size for slow clients. If the app switches to another
//!    protocol, such as WebSocket, a [`relay::Relay`] forwards bytes in both directions as long as
//!    [`access::StreamPermit`] allows the stream. If the app refuses the token, the gateway may
//!    send the request one more time with a new token ([`access::TokenRefusal::recover`]).
//!
//! 8. [`fields::outbound`] removes unsafe fields from the response. On a route with `rewrite`, the
//!    gateway replaces the app's own addresses in the response. When the answer to a request has
//!    ended, one function writes the access-log event of the request.
//!
//! # One refresh
//!
//! All requests that need a new token for the same session share one refresh, which
//! [`access::Refresher`] manages. The code calls a shared refresh a flight. A shared refresh is a
//! task of the control plane. First, the task of the refresh acquires the session's lease. Several
//! processes can share a store, but only one process at a time can have the lease of a session.
//! While the task of the refresh has the lease of the session, the task calls
//! [`provider::Provider::refresh`] one time. [`session::Sessions::replace`] stores the new token
//! set before any request uses the new access token. If the user has signed out during the refresh,
//! the new token set is not stored. After a temporary failure of a refresh, the task of the refresh
//! pauses and tries again. If only an operator can remove the cause of a failure, the task of the
//! refresh writes an error event. If the provider reports that the grant has ended, the session
//! ends. A drain waits until all refreshes have ended.
//!
//! # One login
//!
//! 1. [`login::Login::begin`] checks that the provider is ready ([`provider::Provider::ready`]). If
//!    the provider is ready, `begin` writes the encrypted pending login into the `state` parameter
//!    and binds the state to a secret in a cookie. Each pending login has its own cookie. Finally,
//!    `begin` sends the browser to [`provider::Provider::authorization_url`].
//!
//! 2. The callback reaches [`login::Login::complete`]. `complete` first checks for an `error`
//!    parameter. `complete` uses the authorization code only after the state was verified. The
//!    authorization code is exchanged only if the callback comes from the provider to which the
//!    browser was sent.
//!
//! 3. [`provider::Provider::redeem`] exchanges the code on the control plane, verifies the ID token
//!    and returns the identity. [`provider::Provider::maintain`] keeps the keys that verify ID
//!    tokens up to date.
//!
//! 4. [`session::Sessions::open`] stores the session and returns its new session id.
//!
//! 5. The browser returns to the page that the user asked for ([`login::ReturnTo`]).
//!
//! On a route with `silent_sign_in`, the first login of a page load asks the provider not to show a
//! page (`prompt=none`). If the provider does not sign the user in, the browser returns to the page,
//! and a cookie prevents another attempt.
//!
//! # One sign-out
//!
//! A sign-out ends the session on the control plane, and a task revokes the refresh token at the
//! provider (RFC 7009). If the provider has an end-session endpoint, the browser then opens an
//! endpoint of the gateway, which redirects the browser to the provider with the ID token of the
//! session (OpenID Connect RP-Initiated Logout 1.0). The ID token is in an encrypted cookie until
//! this redirect, so that no script in a page of the app can read the ID token.
//!
//! # One logout at the provider
//!
//! A provider that ends its session of a user sends a logout token (OpenID Connect Back-Channel
//! Logout 1.0), which [`provider::Provider`] verifies like an ID token. One commit of the store ends
//! all sessions that the token names, and marks the token as used. A login that began before the
//! logout opens no session. A provider can also use a page in the browser of the user (front-channel
//! logout), and an app of a provider without logout tokens can send a signed request (the webhook).
//!
//! # One auth check
//!
//! Another proxy can ask whether it may forward a request. The gateway reads the method, the target
//! and the host of this request from the fields of the auth check, and performs steps 2 to 6 of the
//! list above. If the request is permitted, the answer contains the fields that
//! [`access::Permit::fields`] returns, and the gateway forwards nothing. Only the answer to a
//! permitted request has a successful status.
//!
//! # One explanation
//!
//! [`gateway::Explanation`] states what the gateway would do with a request that nobody has sent.
//! The explanation comes from the code of steps 2 to 7 of the list above, with an imagined session
//! ([`instance::Explainer`]).
//!
//! # One sign-in for several hosts
//!
//! With the setting `login.host`, all logins take place at the login host. At any other host,
//! [`login::Login::begin`] sends the browser to the login host with a sealed ticket request. The
//! login host sends the browser back with a ticket, which is valid for one use in one browser tab.
//! The host redeems the ticket, and sets a cookie with a host id. A host id contains the session
//! key, sealed for the host. All ids of a session therefore name one session in the store.

/// The allocator is mimalloc, because it reuses freed memory for the next request. The allocator is
/// declared in the library, so that tests and benches also use it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod access;
pub mod admin;
pub mod clock;
pub mod config;
pub mod demo;
pub mod fields;
pub mod gateway;
pub mod identity;
pub mod import;
pub mod instance;
pub mod login;
pub mod network;
pub mod origin;
pub mod provider;
pub mod relay;
pub mod seal;
pub mod secret;
pub mod server;
pub mod session;
pub mod snippet;
pub mod target;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod upload;
pub mod upstream;
