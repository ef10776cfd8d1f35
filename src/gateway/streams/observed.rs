//! The state of a running stream, as its guard sees it.

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

/// The state of a running stream.
pub(in crate::gateway) trait ObservedStream {
    /// The bytes that the stream has carried.
    fn bytes(&self) -> StreamBytes;
}
