//! Sidegate is a reverse proxy that signs users in.
//!
//! A legacy web app behind it never sees OAuth: Sidegate performs the authorization-code exchange
//! on the app's behalf, keeps the tokens keyed by the session cookie (in memory, or in a file as
//! well), and forwards each request with `Authorization: Bearer <access token>`.
//!
//! This page is the map. A room is one module; it may name only rooms of a lower rank, and rooms
//! of one rank do not know each other. A test enforces it.
//!
//! | rank | rooms | what they know |
//! | --- | --- | --- |
//! | 0 | [`secret`] [`clock`] [`telemetry`] | values that never print; time as an argument; events, access log, figures |
//! | 1 | [`seal`] [`tls`] [`identity`] [`token`] [`fields`] [`target`] [`upload`] [`relay`] | keys, and what is sealed with them; certificates; who somebody is; a token set with its ready `Bearer` value; HTTP fields; the canonical request target; the body of a request that is sent on; bytes between two connections after a switch of protocols |
//! | 2 | [`origin`] [`server`] | an HTTP client with its pool; listeners, framing, deadlines, drain. Neither knows authentication |
//! | 3 | [`provider`] [`session`] [`upstream`] | the authorization server: metadata, keys, tokens, who somebody is; who is signed in; the app behind |
//! | 4 | [`access`] [`login`] | route, rule, decision, refreshing; the code flow, pending logins, signing out |
//! | 5 | [`gateway`] [`admin`] | the walk and its answers; health and figures |
//! | 6 | [`config`] | settings file, variables, flags: all problems at once |
//! | 7 | [`instance`] | one running gateway: everything brought together |
//! | 8 | [`demo`] | an embedded authorization server and a legacy app, for trying and for tests |
//!
//! # One site
//!
//! Everything that is made from the settings is one immutable value, the [`gateway::Site`]: routes
//! and rules, upstreams, providers, the login flow, public URLs, trusted networks, assertion names.
//! It is built whole or not at all. Each worker has a copy of its own behind an `Rc` and takes the
//! next one when a reload has built it; a request keeps its site to its end, and a
//! [`access::Permit`] owns what it needs. What outlives a site is in [`gateway::ProcessState`] and
//! [`login::ProcessState`]: sessions, used states, refreshes under way, figures.
//!
//! # Two planes
//!
//! The data plane is one current-thread runtime per worker ([`server::Workers`]), each with its
//! own connections to the apps ([`upstream::Pools`]). Workers share the session cache and the
//! figures, and wait for no lock. The control plane is one small multi-thread runtime
//! ([`instance`]) for everything that talks to a provider: a worker awaits its result, and if the
//! browser goes away the task still finishes. [`session::Sessions`] is a cache in front of a store;
//! the store of a process is a thread of its own, which commits every change of a session and brings
//! the cache up to date before anybody can act on the change.
//!
//! # The walk of one request
//!
//! 1. [`server`] accepts, does TLS and frames HTTP under its own deadlines.
//! 2. [`target::Target::from_request`] makes the target canonical: the same bytes are matched,
//!    authorised, logged and forwarded. [`login::PublicUrls`] says whether the host is ours, and
//!    [`fields::forwarded`] who is asking.
//! 3. [`fields::inbound`] removes hop-by-hop fields and every field that we assert, in all
//!    spellings, the client's `Authorization` among them. Steps 3, 5 and 7 read fields by
//!    [`fields::View`], so that they need no map of them.
//! 4. Our own endpoints below [`login::OWN_PREFIX`] are answered by [`login`].
//! 5. [`access::Access::decide`] finds the route, the session and the rule. A request whose token has
//!    expired waits for its refresh ([`access::Wait`]), and not for ever.
//! 6. The [`gateway`] answers a [`access::Decision`]: navigation goes to the provider, or to a page
//!    where people choose one; everything else gets 401 with a `login_url`; 403 and 404 speak for
//!    themselves; 503 says when a session that cannot be used now can be again.
//! 7. [`access::Permit::exchange`] removes our cookies, writes who is signed in and the bearer
//!    token ([`upstream::assertions`]), and sends the request on a pooled connection. Bodies
//!    stream both ways. If the app switches to another protocol, such as WebSocket, a
//!    [`relay::Relay`] passes bytes in both directions for as long as [`access::StreamPermit`] allows
//!    it. If the app refuses the token, the request may be sent once more with another one
//!    ([`access::TokenRefusal::recover`]).
//! 8. [`fields::outbound`] cleans the response. One exit writes the access-log event.
//!
//! # The walk of one refresh
//!
//! Whoever needs new tokens for a session joins its one flight in [`access::Refresher`], a task of the
//! control plane. It takes the session's lease, which only one of the processes that share a store has
//! at a time, and asks [`provider::Provider::refresh`] once; [`session::Sessions::replace`] commits
//! what came before anybody uses it, unless somebody has signed out meanwhile. A failure that passes
//! is tried again after a pause; one that an operator has to mend raises an alarm; the provider's word
//! that the grant has ended ends the session. When the process drains it waits for flights.
//!
//! # The walk of one login
//!
//! [`login::Login::begin`] makes sure that the provider is there ([`provider::Provider::ready`]),
//! seals the pending login as the `state` itself, bound to a secret in a cookie of this one tab,
//! and sends the browser to [`provider::Provider::authorization_url`]. The answer comes to [`login::Login::complete`]: an
//! error is read first; the code cannot be reached before the state has been verified, and goes
//! nowhere unless the answer comes from the provider that was asked; then
//! [`provider::Provider::redeem`] exchanges it on the control plane, verifies the ID token with keys
//! that [`provider::Provider::maintain`] keeps up to date, and says who it is;
//! [`session::Sessions::open`] gives a new id once the session is stored; and the browser goes where it wanted to
//! ([`login::ReturnTo`]).

/// Keeps what is freed at hand for the next request, so that little memory is touched. Here, so that
/// tests and benches run on it, too.
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
pub mod instance;
pub mod login;
pub mod origin;
pub mod provider;
pub mod relay;
pub mod seal;
pub mod secret;
pub mod server;
pub mod session;
pub mod target;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod upload;
pub mod upstream;
