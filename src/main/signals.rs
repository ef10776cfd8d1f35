//! The signals of the process.

use std::io;

use rustix::process::Signal as SignalNumber;
use sidegate::instance::{Instance, ReloadCause};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop the process: SIGTERM, SIGINT and SIGQUIT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the next signal that stops the process.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// All signals of a gateway. By default, each of these signals would kill the process.
pub(super) struct Signals {
    pub(super) stop: StopSignals,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        // The kernel sends SIGXFSZ when a file would become larger than the file size limit of the
        // process. With a handler, which stays until the process ends, only the write fails.
        drop(signal(SignalKind::from_raw(SignalNumber::XFSZ.as_raw()))?);
        Ok(Self {
            stop: StopSignals::listen()?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Serves until a signal stops the process. SIGHUP and replaced files start a reload.
    pub(super) async fn serve(&mut self, instance: &mut Instance) {
        loop {
            let cause = tokio::select! {
                () = self.stop.next() => return,
                _ = self.hangup.recv() => ReloadCause::Signal,
                cause = instance.reload_due() => cause,
                _ = self.user_1.recv() => {
                    log_ignored("SIGUSR1");
                    continue;
                }
                _ = self.user_2.recv() => {
                    log_ignored("SIGUSR2");
                    continue;
                }
            };
            tokio::select! {
                // If a reload hangs while it reads a file, the gateway must still be able to stop.
                () = self.stop.next() => return,
                // `reload` itself logs the result.
                _reloaded = instance.reload(cause) => {}
            }
        }
    }
}

fn log_ignored(signal: &str) {
    tracing::info!(signal, "Signal ignored");
}
