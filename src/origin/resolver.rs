//! Looks up the addresses of host names.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::lookup_host;

/// The addresses of a host, or the error of the look-up.
pub(super) type LookUp = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Looks up the addresses of host names. The resolver does not cache results. If a host gets a new
/// address, the next connection uses the new address. A failed look-up affects only the connections
/// that wait for this look-up.
#[derive(Clone)]
pub(super) struct Resolver(Arc<dyn Fn(String, u16) -> LookUp + Send + Sync>);

impl Resolver {
    /// Creates a resolver that gets its results from `look_up`.
    pub(super) fn new(look_up: impl Fn(String, u16) -> LookUp + Send + Sync + 'static) -> Self {
        Self(Arc::new(look_up))
    }

    /// Looks up the addresses of `host`, with `port`.
    ///
    /// # Errors
    ///
    /// The error of the operating system.
    pub(super) async fn look_up(&self, host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        (self.0)(host, port).await
    }
}

impl Default for Resolver {
    /// The resolver of the operating system.
    fn default() -> Self {
        Self::new(|host, port| {
            Box::pin(async move { Ok(lookup_host((host.as_str(), port)).await?.collect()) })
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
