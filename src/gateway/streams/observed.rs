//! The numbers of transferred bytes that the guard of a stream reads.

/// The numbers of bytes that a stream has transferred in each direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::gateway) struct StreamBytes {
    pub(in crate::gateway) from_client: u64,
    pub(in crate::gateway) from_app: u64,
}

impl StreamBytes {
    /// Returns the number of bytes that were transferred in both directions together.
    pub(super) fn sum(self) -> u64 {
        self.from_client.saturating_add(self.from_app)
    }
}

/// A running stream whose numbers of transferred bytes a `StreamGuard` reads.
pub(in crate::gateway) trait ObservedStream {
    /// The numbers of bytes that the stream has transferred.
    fn bytes(&self) -> StreamBytes;
}
