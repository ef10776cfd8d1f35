//! The numbers of transferred bytes that the guard of a stream reads.

/// The numbers of bytes that a stream has transferred in each direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::gateway) struct StreamBytes {
    pub(in crate::gateway) from_client: u64,
    pub(in crate::gateway) from_app: u64,
}

impl StreamBytes {
    /// Returns the total number of bytes that were transferred in the two directions.
    pub(super) fn sum(self) -> u64 {
        self.from_client.saturating_add(self.from_app)
    }
}

/// A running stream. A `StreamGuard` asks the stream how many bytes the stream has transferred.
pub(in crate::gateway) trait ObservedStream {
    /// Returns the number of bytes that the stream has transferred in each direction.
    fn bytes(&self) -> StreamBytes;
}
