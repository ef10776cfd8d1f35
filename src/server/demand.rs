//! The demands of workers that need room for a new connection.
//!
//! A worker can close only its own connections. If it has none to close, it asks all other workers.
//! Each worker looks at every demand. The worker that asks learns when another worker has closed a
//! connection, and when all workers have looked at the demand.

use tokio::sync::{broadcast, mpsc};

use super::clients::ClientId;

/// The maximum number of demands at which a worker has not looked yet. If a worker misses older
/// demands, it has not run for longer than the other workers have waited for it.
const UNREAD: usize = 256;

/// What a new connection needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Need {
    /// A slot. Only clients with more than their share lose connections.
    SlotOfOverShare,
    /// A slot. Every client can lose connections.
    Slot,
    /// A descriptor, because the operating system has refused one. Every client can lose
    /// connections.
    Descriptor,
    /// Room below the limit of this client. Only this client loses connections.
    RoomOfClient(ClientId),
}

/// What a worker needs and cannot get by closing its own connections.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    /// The index of the worker, or `None` if all workers have to look at the demand.
    pub(super) worker: Option<usize>,
    pub(super) need: Need,
    answer: mpsc::Sender<()>,
}

impl Demand {
    /// Tells the worker that asks that a connection was closed.
    pub(super) fn is_met(&self) {
        // If the channel is full, the worker already gets this answer. If the channel is closed, the
        // worker no longer waits.
        self.answer.try_send(()).unwrap_or_default();
    }
}

/// The demands of all workers.
#[derive(Debug)]
pub(super) struct Demands(broadcast::Sender<Demand>);

impl Demands {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(UNREAD))
    }

    /// Asks all other workers to close waiting connections.
    pub(super) fn ask(&self, worker: Option<usize>, need: Need) -> Answers {
        let (answer, answers) = mpsc::channel(1);
        let demand = Demand {
            worker,
            need,
            answer,
        };
        // Without a receiver, the demand is dropped, and nobody answers.
        self.0.send(demand).map_or_else(drop, drop);
        Answers(answers)
    }

    /// Returns a receiver of all later demands.
    pub(super) fn receiver(&self) -> DemandReceiver {
        DemandReceiver(self.0.subscribe())
    }
}

/// Receives the demands of all workers.
#[derive(Debug)]
pub(super) struct DemandReceiver(broadcast::Receiver<Demand>);

impl DemandReceiver {
    /// Returns the next demand. Returns `None` if the server has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Demand> {
        loop {
            match self.0.recv().await {
                Ok(demand) => return Some(demand),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// The answers of the other workers to one demand.
#[derive(Debug)]
pub(super) struct Answers(mpsc::Receiver<()>);

impl Answers {
    /// Waits until another worker has closed a connection since the last call. Returns false if all
    /// workers have looked at the demand.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn is_met(&mut self) -> bool {
        self.0.recv().await.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn d_43_no_demand_replaces_another_one_and_every_demand_is_answered() {
        let demands = Demands::new();
        let mut workers = [demands.receiver(), demands.receiver()];
        let mut first = demands.ask(Some(0), Need::SlotOfOverShare);
        let mut second = demands.ask(Some(0), Need::Descriptor);
        for worker in &mut workers {
            for need in [Need::SlotOfOverShare, Need::Descriptor] {
                let demand = worker.next().await.unwrap();
                assert_eq!((demand.worker, demand.need), (Some(0), need));
                if need == Need::Descriptor {
                    demand.is_met();
                }
            }
        }
        assert!(!first.is_met().await);
        assert!(second.is_met().await);
        assert!(!second.is_met().await);
    }

    #[tokio::test]
    async fn a_demand_that_nobody_receives_is_answered_at_once() {
        let demands = Demands::new();
        assert!(!demands.ask(None, Need::Slot).is_met().await);
        let mut asleep = demands.receiver();
        let mut missed = demands.ask(None, Need::Slot);
        for _ in 0..UNREAD {
            drop(demands.ask(None, Need::Descriptor));
        }
        assert!(!missed.is_met().await);
        assert_eq!(asleep.next().await.unwrap().need, Need::Descriptor);
    }
}
