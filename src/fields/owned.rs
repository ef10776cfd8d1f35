//! The names of the fields that only the gateway may write.

use std::collections::BTreeSet;

use http::HeaderName;
use http::header::EXPECT;

use super::strip::HOP_BY_HOP;

/// Names that clients may never send, because an app could read these fields to replace the method,
/// the path or the user of a request after the rules have checked the request. No proxy writes these
/// fields for its own use. The names are in normalized form (lower case, with `-` for every character
/// that is not a letter or digit).
pub(crate) const REPLACING: [&str; 14] = [
    "path-info",
    "proxy",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "script-name",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-remote-user",
    "x-rewrite-url",
    "x-script-name",
];

/// Further names that clients may never send, in normalized form. An app could read these fields to
/// learn who the client is, or where the request comes from. A proxy may write these fields.
pub(crate) const DESCRIBING: [&str; 17] = [
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "front-end-https",
    "ssl-client-cert",
    "ssl-client-s-dn",
    "ssl-client-verify",
    "x-client-cert",
    "x-client-ip",
    "x-original-method",
    "x-original-uri",
    "x-real-ip",
    "x-request-id",
    "x-scheme",
    "x-ssl-client-cert",
    "x-ssl-client-verify",
    "x-url-scheme",
];

/// Clients may never send a field whose name begins with one of these prefixes. The prefixes are in
/// the normalized form of [`DESCRIBING`].
const PREFIXES: [&str; 4] = ["proxy-", "x-auth-request-", "x-envoy-", "x-forwarded-"];

/// Names of fields that are forwarded only in their standard spelling. CGI turns both
/// `Content_Length` and `Content-Length` into `CONTENT_LENGTH`, so an app could read the value of
/// the wrong field.
const SPELLED_EXACTLY: [&str; 4] = [
    "content-length",
    "content-type",
    "if-none-match",
    "transfer-encoding",
];

/// The names of all fields that only the gateway may write: the forwarding fields, the usual names
/// of identity and rewriting fields, the configured assertion fields, and the configured fields
/// with a token. `Authorization` is not in the list, because the route decides who may write it. A
/// permit therefore replaces, removes or forwards the client's `Authorization`.
///
/// CGI, WSGI, PHP and Rack turn `X-User` and `X_User` into the same variable. Names are therefore
/// compared in normalized form: ASCII lower case, with `-` for every character that is not a letter
/// or digit. A percent-encoded spelling such as `X%2DUser` is a different name.
#[derive(Clone, Debug)]
pub struct OwnedFields {
    /// One row for each possible first letter, with the names that begin with this letter. The low
    /// five bits of the first letter are the index of the row.
    names: [Box<[OwnedName]>; 32],
    /// One entry for each row, with the lengths of the names of all fields that the gateway may
    /// have to remove from a request. An entry is a bit set: bit `n` is set if the length of a name
    /// is `n` modulo 64. For nearly every field that is kept, one look-up in `may_remove` is
    /// enough.
    may_remove: [u64; 32],
}

#[derive(Clone, Debug)]
struct OwnedName {
    folded: Box<str>,
    /// True if the standard spelling of the name is forwarded and only other spellings are removed.
    passes_as_spelled: bool,
}

impl OwnedFields {
    /// Creates the list of the built-in names and of the names in the argument `configured`.
    pub fn new<'a>(configured: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let configured = configured.into_iter().map(|name| {
            let folded = name
                .as_str()
                .bytes()
                .map(|byte| char::from(fold(byte)))
                .collect();
            OwnedName {
                folded,
                passes_as_spelled: false,
            }
        });
        let owning = |passes_as_spelled| {
            move |name: &&str| OwnedName {
                folded: Box::from(*name),
                passes_as_spelled,
            }
        };
        let built_in = REPLACING.iter().chain(&DESCRIBING).map(owning(false));
        let names = built_in
            .chain(SPELLED_EXACTLY.iter().map(owning(true)))
            .chain(configured);
        let mut rows: [Vec<OwnedName>; 32] = std::array::from_fn(|_| Vec::new());
        let mut may_remove = [0; 32];
        for name in names {
            add(&mut may_remove, &name.folded, length_bit(&name.folded));
            if let Some(row) = rows.get_mut(row(&name.folded)) {
                row.push(name);
            }
        }
        for name in HOP_BY_HOP.iter().chain([&EXPECT.as_str()]) {
            add(&mut may_remove, name, length_bit(name));
        }
        for prefix in PREFIXES {
            add(&mut may_remove, prefix, u64::MAX);
        }
        Self {
            names: rows.map(Vec::into_boxed_slice),
            may_remove,
        }
    }

    /// Returns the names of the fields that are removed from every request, in alphabetical order. A
    /// name with `*` stands for all names with this prefix.
    pub(crate) fn removed_names(&self) -> BTreeSet<String> {
        let is_below = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let owned = self.names.iter().flatten();
        let owned = owned.filter(|name| !name.passes_as_spelled);
        let owned = owned.map(|name| &*name.folded);
        let names = owned.chain(HOP_BY_HOP).filter(|name| !is_below(name));
        let prefixes = PREFIXES.iter().map(|prefix| format!("{prefix}*"));
        names.map(str::to_owned).chain(prefixes).collect()
    }

    /// Returns true if a field with this name may have to be removed: an owned field, a hop-by-hop
    /// field, or `Expect`. If the function returns `false`, the caller does not have to remove the
    /// field. If the result is `true`, the caller has to compare `name` with the names of the owned
    /// fields, of the hop-by-hop fields and of `Expect`.
    pub(super) fn may_remove(&self, name: &str) -> bool {
        holds(&self.may_remove, name)
    }

    /// Returns true if only the gateway may write a field whose name has this spelling. The
    /// comparison ignores the case of letters.
    pub(crate) fn contains(&self, name: &str) -> bool {
        let (bytes, row) = (name.as_bytes(), row(name));
        let mut same_row = self.names.get(row).into_iter().flatten();
        let listed = same_row.any(|owned| {
            let is_standard = || owned.folded.eq_ignore_ascii_case(name);
            owned.folded.len() == name.len()
                && !(owned.passes_as_spelled && is_standard())
                && begins_with(bytes, &owned.folded)
        });
        listed || (is_prefix_row(row) && PREFIXES.iter().any(|prefix| begins_with(bytes, prefix)))
    }
}

fn row(name: &str) -> usize {
    name.bytes()
        .next()
        .map_or(0, |first| usize::from(fold(first) & 31))
}

/// Returns true if at least one prefix in [`PREFIXES`] belongs to the row with the index `row`.
fn is_prefix_row(row: usize) -> bool {
    PREFIXES.iter().any(|prefix| self::row(prefix) == row)
}

fn length_bit(name: &str) -> u64 {
    // A length has the same bit as the length plus 64. If the bit for the length of a name is set,
    // the caller must also compare the name.
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    1_u64.wrapping_shl(length)
}

fn add(table: &mut [u64; 32], name: &str, lengths: u64) {
    if let Some(seen) = table.get_mut(row(name)) {
        *seen |= lengths;
    }
}

fn holds(table: &[u64; 32], name: &str) -> bool {
    table
        .get(row(name))
        .is_some_and(|seen| seen & length_bit(name) != 0)
}

fn begins_with(name: &[u8], folded: &str) -> bool {
    name.len() >= folded.len()
        && name
            .iter()
            .zip(folded.as_bytes())
            .all(|(byte, wanted)| fold(*byte) == *wanted)
}

/// Returns the byte that stands for all bytes that an app behind CGI or WSGI cannot distinguish in
/// a field name from `byte`: letters in lower case, digits, and `-` for all other bytes.
pub(crate) fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}
