//! The values of a running stream that the guard of the stream reads.

/// The numbers of bytes of a stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::gateway) struct StreamBytes {
    pub(in crate::gateway) from_client: u64,
    pub(in crate::gateway) from_app: u64,
}

impl StreamBytes {
    /// The number of bytes in both directions.
    pub(super) fn sum(self) -> u64 {
        self.from_client.saturating_add(self.from_app)
    }
}

/// A running stream whose numbers of transferred bytes a `StreamGuard` reads.
pub(in crate::gateway) trait ObservedStream {
    /// The numbers of bytes that the stream has transferred.
    fn bytes(&self) -> StreamBytes;
}
