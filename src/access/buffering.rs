//! The sizes of the buffers that protect an app from slow clients.

use serde::{Deserialize, Deserializer};

/// The largest buffer in memory, in KiB: 64 MiB.
const LARGEST: usize = 64 * 1024;

/// The maximum of the settings `request_spill_mib` and `answer_spill_mib`: 1 TiB.
const LARGEST_FILE: usize = 1024 * 1024;

/// The sizes of the buffers that each request to a route gets. The sizes are in bytes. If a size is
/// zero, the gateway does not use the buffer or the file.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BufferSettings {
    /// The part of a request body that must arrive before the request takes a connection of the
    /// app, unless the complete body is smaller.
    #[serde(rename = "request_kib", deserialize_with = "kib")]
    pub(crate) request: usize,
    /// The maximum number of bytes of an answer that the gateway reads into memory while the client
    /// does not accept bytes.
    #[serde(rename = "answer_kib", deserialize_with = "kib")]
    pub(crate) answer: usize,
    /// Whether the app gets a request only when the whole body has arrived.
    pub(crate) whole_request: bool,
    /// The maximum number of bytes of a request body that the gateway buffers in a file.
    #[serde(rename = "request_spill_mib", deserialize_with = "mib")]
    pub(crate) request_spill: usize,
    /// The maximum number of bytes of one answer that the gateway stores in a file.
    #[serde(rename = "answer_spill_mib", deserialize_with = "mib")]
    pub(crate) answer_spill: usize,
}

impl BufferSettings {
    /// The largest request body that the buffers can store, in bytes.
    pub(crate) fn largest_request(&self) -> u64 {
        u64::try_from(self.request.max(self.request_spill)).unwrap_or(u64::MAX)
    }
}

impl Default for BufferSettings {
    fn default() -> Self {
        Self {
            request: 64 * 1024,
            answer: 256 * 1024,
            whole_request: false,
            request_spill: 0,
            answer_spill: 0,
        }
    }
}

/// Reads a number of KiB, and returns the number of bytes.
fn kib<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Ok(at_most(LARGEST, deserializer)?.saturating_mul(1024))
}

/// Reads a number of MiB, and returns the number of bytes.
fn mib<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Ok(at_most(LARGEST_FILE, deserializer)?.saturating_mul(1024 * 1024))
}

fn at_most<'de, D: Deserializer<'de>>(limit: usize, deserializer: D) -> Result<usize, D::Error> {
    let number = usize::deserialize(deserializer)?;
    if number > limit {
        let reason = format!("must be at most {limit}");
        return Err(serde::de::Error::custom(reason));
    }
    Ok(number)
}
