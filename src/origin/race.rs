//! Connects to a host that has several addresses (RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// The delay between the start of one connection attempt and the start of the next, parallel
/// attempt (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to several addresses in parallel, and returns the first connection that opens. Each
/// address is tried [`STAGGER`] after the previous address, or immediately after a failure. When an
/// attempt succeeds, the other attempts are aborted. `connect` opens a connection to one address.
///
/// # Errors
///
/// The error of the attempt that failed last.
///
/// # Cancel safety
///
/// Dropping the future aborts all attempts.
pub(super) async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = interleaved(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(address) = waiting.next() {
        // If only one address is left and no attempt is running, this task itself opens the
        // connection.
        if waiting.as_slice().is_empty() && attempts.is_empty() {
            return connect(address).await;
        }
        attempts.spawn(connect(address));
        // If the attempt is still running after the time `STAGGER`, the attempt continues, and the
        // gateway also tries the next address.
        if let Ok(Some(outcome)) = timeout(STAGGER, attempts.join_next()).await {
            match flatten(outcome) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
    }
    while let Some(outcome) = attempts.join_next().await {
        match flatten(outcome) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn flatten<T>(outcome: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    outcome.unwrap_or_else(|aborted| Err(io::Error::other(aborted)))
}

/// Returns the addresses in the resolver's order, but with alternating address families (RFC 8305
/// section 4).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut order = Vec::new();
    for address in same {
        order.push(address);
        order.extend(other.next());
    }
    order.extend(other);
    order
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::clock::Clock;

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    /// The way in which a host reacts to one connection attempt.
    #[derive(Clone, Copy)]
    enum Host {
        /// The host accepts the connection after this number of milliseconds.
        Accepts(u64),
        /// The host refuses the connection after this number of milliseconds.
        Refuses(u64),
        /// The host never answers.
        Silent,
    }

    /// A simulated network, with the address and the behaviour of each host.
    struct Network {
        hosts: Vec<(SocketAddr, Host)>,
        began: Instant,
        /// For each connection attempt, this channel gets the address, and the time of the attempt
        /// in milliseconds.
        tried: UnboundedSender<(SocketAddr, u128)>,
        /// The number of attempts that are still running.
        running: Arc<AtomicUsize>,
    }

    struct Running(Arc<AtomicUsize>);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Network {
        fn new<const N: usize>(
            hosts: [(&str, Host); N],
        ) -> (Self, UnboundedReceiver<(SocketAddr, u128)>) {
            let (tried, receiver) = unbounded_channel();
            let hosts = hosts.map(|(address, host)| (address.parse().unwrap(), host));
            let network = Self {
                hosts: hosts.to_vec(),
                began: Clock::system().instant(),
                tried,
                running: Arc::default(),
            };
            (network, receiver)
        }

        /// The time since the test network was created, in milliseconds.
        fn elapsed(&self) -> u128 {
            let now = Clock::system().instant();
            now.saturating_duration_since(self.began).as_millis()
        }

        fn connect(
            &self,
            address: SocketAddr,
        ) -> impl Future<Output = io::Result<SocketAddr>> + Send + use<> {
            self.running.fetch_add(1, Ordering::Relaxed);
            let running = Running(Arc::clone(&self.running));
            let at = self.elapsed();
            self.tried.send((address, at)).unwrap();
            let (_, host) = self
                .hosts
                .iter()
                .find(|(host, _)| *host == address)
                .unwrap();
            let host = *host;
            async move {
                let _running = running;
                match host {
                    Host::Accepts(after) => {
                        sleep(Duration::from_millis(after)).await;
                        Ok(address)
                    }
                    Host::Refuses(after) => {
                        sleep(Duration::from_millis(after)).await;
                        Err(io::Error::other(format!("{address} refuses")))
                    }
                    Host::Silent => pending().await,
                }
            }
        }

        /// Connects to the hosts in their order. Returns the address of the connected host or the
        /// error, and the number of milliseconds since the start of the test.
        async fn race(&self) -> (Result<SocketAddr, String>, u128) {
            let addresses = self.hosts.iter().map(|(address, _)| *address).collect();
            let outcome = race(addresses, |address| self.connect(address)).await;
            let outcome = outcome.map_err(|error| error.to_string());
            (outcome, self.elapsed())
        }
    }

    const V6: &str = "[2001:db8::1]:443";
    const V4: &str = "192.0.2.1:443";
    const OTHER_V4: &str = "192.0.2.2:443";

    #[test]
    fn address_families_alternate() {
        let found = addresses(["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"]);
        let order = addresses(["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]);
        assert_eq!(interleaved(found), order);
    }

    #[tokio::test(start_paused = true)]
    async fn f_08_a_silent_address_delays_a_connection_by_a_quarter_of_a_second() {
        for (silent, open) in [(V6, V4), (V4, V6)] {
            let hosts = [(silent, Host::Silent), (open, Host::Accepts(30))];
            let (network, mut tried) = Network::new(hosts);
            assert_eq!(network.race().await, (Ok(open.parse().unwrap()), 280));
            for (address, at) in [(silent, 0), (open, 250)] {
                assert_eq!(tried.try_recv(), Ok((address.parse().unwrap(), at)));
            }
            // The attempt to connect to the silent address is aborted, so no attempt is running.
            tokio::task::yield_now().await;
            assert_eq!(network.running.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f_08_after_a_refused_address_the_next_one_is_tried_at_once() {
        let hosts = [(V6, Host::Refuses(10)), (V4, Host::Accepts(10))];
        let (network, _tried) = Network::new(hosts);
        assert_eq!(network.race().await, (Ok(V4.parse().unwrap()), 20));
        let hosts = [
            (V6, Host::Silent),
            (V4, Host::Refuses(10)),
            (OTHER_V4, Host::Accepts(10)),
        ];
        let (network, _tried) = Network::new(hosts);
        assert_eq!(network.race().await, (Ok(OTHER_V4.parse().unwrap()), 270));
    }

    #[tokio::test(start_paused = true)]
    async fn f_08_the_first_connection_that_opens_is_used() {
        for (first, used, took) in [(270, V6, 270), (290, V4, 280)] {
            let hosts = [(V6, Host::Accepts(first)), (V4, Host::Accepts(30))];
            let (network, _tried) = Network::new(hosts);
            assert_eq!(network.race().await, (Ok(used.parse().unwrap()), took));
        }
        // If the first address answers quickly, no other address is tried.
        let hosts = [(V6, Host::Accepts(240)), (V4, Host::Accepts(0))];
        let (network, mut tried) = Network::new(hosts);
        assert_eq!(network.race().await, (Ok(V6.parse().unwrap()), 240));
        assert_eq!(tried.try_recv(), Ok((V6.parse().unwrap(), 0)));
        assert!(tried.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn f_08_without_an_open_address_the_last_error_is_returned() {
        let hosts = [(V6, Host::Refuses(500)), (V4, Host::Refuses(10))];
        let (network, _tried) = Network::new(hosts);
        assert_eq!(network.race().await, (Err(format!("{V6} refuses")), 500));
        let (network, _tried) = Network::new([(V4, Host::Refuses(10))]);
        assert_eq!(network.race().await, (Err(format!("{V4} refuses")), 10));
        let (network, _tried) = Network::new([]);
        let error = "the name has no address".to_owned();
        assert_eq!(network.race().await, (Err(error), 0));
    }
}
