//! The connection to the server, and the heartbeats that show that no report of a change was lost.
//!
//! One connection carries commands and the messages of other replicas (RESP3). The server sends its
//! data in one order, so a heartbeat that comes back shows that all earlier messages have arrived.
//! Each replica sends its heartbeat to a channel of its own, four times in the time
//! `coherence_secs`. After three quarters of this time without a heartbeat, requests ask the store.
//! After a new connection, the store confirms each cached session once, because messages may have
//! been lost between the two connections.
//!
//! If the server does not answer, the cache can be used for `outage_secs` since the last heartbeat. A
//! server that the Sentinels do not confirm any more counts as a server that does not answer
//! ([`super::sentinels`]).

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, RedisError};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;
use super::commands::Commands;
use super::connect::{Open, connect};
use super::error::{Meaning, RedisConnectError, meaning, store_error};
use super::heartbeats::{Heartbeats, Signal};
use super::sentinels::Confirmation;
use crate::clock::Timestamp;
use crate::session::StoreError;
use crate::session::cache::Event;

/// The pause after the first failed attempt to connect. Each further failure doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts to connect.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The state of the connection.
#[derive(Clone, Debug)]
pub(super) enum Link {
    /// An attempt to connect is in progress, and the server may be available.
    Connecting,
    /// The connection can be used.
    Up(Commands),
    /// The server does not answer. Commands fail at once.
    Down(Arc<RedisConnectError>),
    /// The store is closed.
    Closed,
}

/// The error of a command.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// True if the server has answered with an error, so the server has changed nothing.
    pub(super) is_answered: bool,
}

/// The way in which a connection ended.
#[derive(Debug)]
enum End {
    /// The connection was closed. The server may be available.
    Closed,
    /// The server did not answer, or answered with this error.
    Failed(Arc<RedisConnectError>),
}

/// The channel for the signals of a connection.
type Signals = mpsc::UnboundedSender<Signal>;

/// The channel for the result of the first attempt to connect. `None` after the first attempt.
type First = Option<std::sync::mpsc::Sender<Result<(), Arc<RedisConnectError>>>>;

impl Shared {
    /// Sends a command.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], [`StoreError::Refused`], [`StoreError::Closed`].
    pub(super) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let connection = self.connection().await?;
        let answer = self.send_on(connection, command).await;
        answer.map_err(|failure| failure.error)
    }

    /// Sends a command on this connection.
    pub(super) async fn send_on<T: FromRedisValue>(
        &self,
        mut connection: Commands,
        command: &Cmd,
    ) -> Result<T, Failure> {
        let answer = command.query_async(&mut connection).await;
        answer.map_err(|error: RedisError| Failure {
            is_answered: error.code().is_some(),
            error: self.note_failure(error),
        })
    }

    /// Sends several commands in one round trip.
    ///
    /// # Errors
    ///
    /// The errors of [`Shared::send`].
    pub(super) async fn send_all<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection().await?;
        let answer = commands.query_async(&mut connection).await;
        answer.map_err(|error| self.note_failure(error))
    }

    /// Returns the connection, or waits a short time for a new connection.
    ///
    /// # Errors
    ///
    /// The errors of [`Shared::send`].
    pub(super) async fn connection(&self) -> Result<Commands, StoreError> {
        let mut link = self.link.subscribe();
        let settled = link.wait_for(|link| !matches!(link, Link::Connecting));
        let Ok(settled) = timeout(self.settings.command_timeout, settled).await else {
            self.begin_outage();
            let server = self.server_name();
            return Err(unavailable(RedisConnectError::Silent(server).into()));
        };
        match settled.as_deref() {
            Ok(Link::Up(connection)) => Ok(connection.clone()),
            Ok(Link::Down(error)) => Err(unavailable(Arc::clone(error))),
            Ok(Link::Connecting | Link::Closed) | Err(_) => Err(StoreError::Closed),
        }
    }

    fn note_failure(&self, error: RedisError) -> StoreError {
        match meaning(&error) {
            // One slow command does not show that the connection is broken. The heartbeats decide.
            Meaning::Reconnect if error.is_timeout() => {
                self.has_lost_answers.store(true, Ordering::Relaxed);
                self.begin_outage();
            }
            Meaning::Reconnect => {
                self.failed.send_replace(Some(error.clone()));
            }
            Meaning::Busy => self.begin_outage(),
            Meaning::Refused => {
                let now = self.clock.since_epoch();
                self.alarm.refused_command(&error, now);
            }
        }
        store_error(error)
    }

    /// Allows the use of the cache without heartbeats for a limited time, because the server does
    /// not answer. A later heartbeat ends this state.
    pub(super) fn begin_outage(&self) {
        // Before the first heartbeat, no session in the cache is known to exist.
        if let Some(last) = self.last_heartbeat() {
            let until = last.plus(self.settings.outage);
            self.cache.coherence().set_until(until);
        }
    }

    /// Returns the time at which the last heartbeat that came back was sent.
    pub(super) fn last_heartbeat(&self) -> Option<Timestamp> {
        let last = self.last_heartbeat.load(Ordering::Relaxed);
        (last > 0).then(|| Timestamp::from_millis(last))
    }

    fn server_name(&self) -> Box<str> {
        let server = self.settings.servers.first().map(ToString::to_string);
        server.unwrap_or_default().into()
    }

    /// Keeps a connection to the server until the store is closed. Sends the result of the first
    /// attempt to `first`.
    pub(super) async fn keep_connected(
        self: Arc<Self>,
        first: std::sync::mpsc::Sender<Result<(), Arc<RedisConnectError>>>,
    ) {
        let mut closed = self.link.subscribe();
        let mut first = Some(first);
        let work = async {
            let mut pause = FIRST_PAUSE;
            loop {
                let begun = self.clock.instant();
                let end = self.connect(&mut first).await;
                // A server that closes each connection at once must not get a connection every 50 ms.
                let lasted = self.clock.instant().saturating_duration_since(begun);
                if end.is_ok() && lasted > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                match end {
                    Ok(End::Closed) => {
                        // Only the next attempt shows whether the server still answers.
                        self.cache.coherence().set_until(Timestamp::default());
                        self.set_link(Link::Connecting);
                        tracing::warn!("The connection to the session store was closed");
                    }
                    Ok(End::Failed(error)) => self.fail(error, &mut first),
                    Err(error) => self.fail(Arc::new(error), &mut first),
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        };
        tokio::select! {
            () = work => {}
            _closed = closed.wait_for(|link| matches!(link, Link::Closed)) => {}
        }
    }

    /// Changes the state of the connection, unless the store is closed.
    fn set_link(&self, next: Link) {
        self.link.send_if_modified(|link| {
            let is_open = !matches!(link, Link::Closed);
            if is_open {
                *link = next;
            }
            is_open
        });
    }

    fn fail(&self, error: Arc<RedisConnectError>, first: &mut First) {
        self.begin_outage();
        self.alarm.down(&error);
        self.set_link(Link::Down(Arc::clone(&error)));
        if let Some(first) = first.take() {
            // Nobody waits for the result if the start was cancelled.
            drop(first.send(Err(error)));
        }
    }

    /// Connects, and watches over the connection until it ends.
    ///
    /// # Errors
    ///
    /// [`RedisConnectError`]: the connection could not be used at all.
    async fn connect(self: &Arc<Self>, first: &mut First) -> Result<End, RedisConnectError> {
        let (signals, mut signalled) = mpsc::unbounded_channel();
        let pushed = {
            let (shared, signals) = (Arc::downgrade(self), signals.clone());
            move |push| {
                let shared = shared.upgrade().ok_or(())?;
                shared.receive(push, &signals)
            }
        };
        let mut opening = Box::pin(connect(&self.settings, pushed));
        let mut open = tokio::select! {
            opened = &mut opening => opened?,
            // The server is slow. The cache can be used meanwhile.
            () = tokio::time::sleep(self.settings.command_timeout) => {
                self.begin_outage();
                let slow = RedisConnectError::Silent(self.server_name());
                self.set_link(Link::Down(Arc::new(slow)));
                opening.await?
            }
        };
        let server = open.server.clone();
        let failed = |source| RedisConnectError::Server {
            server: server.clone(),
            source: Arc::new(source),
        };
        let mut commands = open.commands.clone();
        let channels = [self.names.events(), self.names.heartbeats()];
        let subscribed = commands.subscribe(&channels[..]).await;
        subscribed.map_err(failed)?;
        self.look_at_clock(&mut commands).await.map_err(failed)?;
        self.prove_write(&mut commands).await.map_err(failed)?;
        self.arrive(&mut open).await.map_err(failed)?;
        self.failed.send_replace(None);
        Ok(self
            .watch(&mut open, (&signals, &mut signalled), first)
            .await)
    }

    /// Checks that the server accepts writes. A server that loads its data, or a master without its
    /// replicas, sends heartbeats back but refuses writes. If such a server counted as available, the
    /// sessions of the cache would need a confirmation that the server does not give. An error that
    /// does not pass by itself, such as a full memory, is not an error here.
    async fn prove_write(&self, commands: &mut Commands) -> Result<(), RedisError> {
        let written: Result<(), _> = self.presence().query_async(commands).await;
        match written {
            Err(error) if meaning(&error) != Meaning::Refused => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Sends heartbeats until the connection ends.
    async fn watch(
        self: &Arc<Self>,
        open: &mut Open,
        (signals, signalled): (&Signals, &mut mpsc::UnboundedReceiver<Signal>),
        first: &mut First,
    ) -> End {
        let failed_with = |error: RedisError| {
            Arc::new(RedisConnectError::Server {
                server: open.server.clone(),
                source: Arc::new(error),
            })
        };
        let mut ticks = interval(self.quarter());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = self.failed.subscribe();
        let (mut sent, mut is_new) = (Heartbeats::new(self.quarter()), true);
        let mut confirmation = Confirmation::new(self.quarter());
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if confirmation.is_question_due() {
                        self.ask_sentinels(open, signals.clone());
                    }
                    let waiting = self.send_heartbeat(&mut sent, open, signals);
                    if waiting > self.settings.command_timeout {
                        let silent = RedisConnectError::Silent(open.server.clone());
                        self.fail(Arc::new(silent), first);
                    }
                    if waiting > self.patience() {
                        let silent = RedisConnectError::Silent(open.server.clone());
                        return End::Failed(Arc::new(silent));
                    }
                }
                Some(signal) = signalled.recv() => match signal {
                    Signal::Heartbeat(number) => {
                        if let Some(at) = sent.end(number) {
                            if let Err(error) = self.note_up(open, &mut is_new).await {
                                return End::Failed(failed_with(error));
                            }
                            self.note_heartbeat(at);
                            if let Some(first) = first.take() {
                                // Nobody waits for the result if the start was cancelled.
                                drop(first.send(Ok(())));
                            }
                        }
                    }
                    Signal::Confirmation(is_confirmed) => {
                        if !confirmation.note(is_confirmed) {
                            let server = open.server.clone();
                            let error = RedisConnectError::Unconfirmed(server);
                            return End::Failed(Arc::new(error));
                        }
                    }
                    Signal::Busy(error) => self.fail(failed_with(error), first),
                    Signal::Lost(error) => return End::Failed(failed_with(error)),
                    Signal::Closed => return End::Closed,
                },
                error = failure(&mut failed) => return match error {
                    Some(error) if error.code().is_some() => End::Failed(failed_with(error)),
                    Some(_) | None => End::Closed,
                },
            }
        }
    }

    /// Sends a heartbeat. Returns the time for which the oldest heartbeat has been under way.
    fn send_heartbeat(
        self: &Arc<Self>,
        sent: &mut Heartbeats,
        open: &Open,
        signals: &Signals,
    ) -> Duration {
        let number = sent.begin(&self.clock);
        self.beat(open.commands.clone(), number, signals.clone());
        self.watch_clock(number, open.commands.clone());
        let waiting = sent.waiting(&self.clock);
        if waiting > self.silence() {
            // The gateway's clock may have been set back, so the time limit of the last heartbeat may
            // be in the far future.
            self.cache.coherence().set_until(Timestamp::default());
        }
        waiting
    }

    /// Notes that a heartbeat came back. `is_new` is true if no heartbeat of this connection has come
    /// back before.
    async fn note_up(&self, open: &Open, is_new: &mut bool) -> Result<(), RedisError> {
        let mut commands = open.commands.clone();
        if *is_new {
            self.repeat_changes(&mut commands).await?;
        }
        self.make_pending(&mut commands).await?;
        if self.has_lost_answers.swap(false, Ordering::Relaxed) {
            // The server has executed the command by now, if it executes the command at all. This
            // replica ignores its own messages, so the store has to confirm each session.
            self.cache.apply(Event::Lost);
        }
        if !*is_new && matches!(*self.link.borrow(), Link::Up(_)) {
            return Ok(());
        }
        if mem::take(is_new) {
            // Reports may have been lost before the subscription. Until this moment, the sessions of
            // the cache could be used, because the server did not answer. Requests that need a
            // confirmation now wait for the connection.
            self.set_link(Link::Connecting);
            self.cache.apply(Event::Lost);
        }
        self.set_link(Link::Up(open.commands.clone()));
        self.alarm.up(&open.server);
        Ok(())
    }

    /// Returns the time without an answer after which this replica connects again.
    pub(super) fn patience(&self) -> Duration {
        let patience = self.settings.command_timeout.max(self.silence());
        patience.saturating_mul(2)
    }

    /// Returns the time between two heartbeats.
    fn quarter(&self) -> Duration {
        half(half(self.settings.coherence))
    }

    /// Returns the longest time without a heartbeat during which requests use the cache.
    fn silence(&self) -> Duration {
        self.quarter().saturating_mul(3)
    }

    fn note_heartbeat(&self, sent: Timestamp) {
        self.last_heartbeat
            .store(sent.as_millis().max(1), Ordering::Relaxed);
        // A manual clock of a test stands still between two heartbeats, or moves by hours.
        let until = if self.clock.is_manual() {
            Timestamp::MAX
        } else {
            sent.plus(self.silence())
        };
        self.cache.coherence().set_until(until);
    }
}

/// Waits until a command has failed in a way that the connection must be replaced.
async fn failure(failed: &mut watch::Receiver<Option<RedisError>>) -> Option<RedisError> {
    let failed = failed.wait_for(Option::is_some).await;
    failed.ok().and_then(|error| error.clone())
}

pub(super) fn half(duration: Duration) -> Duration {
    duration.checked_div(2).unwrap_or_default()
}

fn unavailable(error: Arc<RedisConnectError>) -> StoreError {
    StoreError::Unavailable(error)
}

/// Creates the state of a connection that does not exist yet.
pub(super) fn connecting() -> watch::Sender<Link> {
    watch::Sender::new(Link::Connecting)
}
