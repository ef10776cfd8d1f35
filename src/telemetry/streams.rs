//! Metrics of streams.

use std::fmt;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::metrics::{GaugeGuard, Labels};

/// An open stream. The metrics count a stream as open until the `OpenStream` is dropped.
pub(crate) struct OpenStream {
    route: Box<str>,
    _open: GaugeGuard,
    ended: Family<Labels, Counter>,
}

impl OpenStream {
    pub(super) fn new(route: &str, open: GaugeGuard, ended: Family<Labels, Counter>) -> Self {
        Self {
            route: route.into(),
            _open: open,
            ended,
        }
    }

    /// The name of the stream's route.
    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    /// Counts the end of the stream.
    pub(crate) fn count_end(&self, end: &'static str) {
        let labels = vec![
            ("route", self.route.to_string().into()),
            ("reason", end.into()),
        ];
        self.ended.get_or_create_owned(&labels).inc();
    }
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}
