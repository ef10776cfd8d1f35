//! The sizes of the buffers that protect an app from slow clients.

use serde::{Deserialize, Deserializer};

/// The largest buffer, in KiB: 64 MiB.
const LARGEST: usize = 64 * 1024;

/// The sizes of the buffers of each request of a route, in bytes. Zero means no buffer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BufferSettings {
    /// The part of a request body that must arrive before the request takes a connection of the
    /// app, unless the complete body is smaller.
    #[serde(rename = "request_kib", deserialize_with = "kib")]
    pub(crate) request: usize,
    /// The part of an answer that the gateway reads while the client does not accept bytes.
    #[serde(rename = "answer_kib", deserialize_with = "kib")]
    pub(crate) answer: usize,
}

impl Default for BufferSettings {
    fn default() -> Self {
        Self {
            request: 64 * 1024,
            answer: 256 * 1024,
        }
    }
}

/// Reads a number of KiB, and returns the number of bytes.
fn kib<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let kib = usize::deserialize(deserializer)?;
    if kib > LARGEST {
        let limit = format!("must be at most {LARGEST}");
        return Err(serde::de::Error::custom(limit));
    }
    Ok(kib.saturating_mul(1024))
}
