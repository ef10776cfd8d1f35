//! The fields that only we may assert.

use http::HeaderName;
use http::header::EXPECT;

use super::strip::HOP_BY_HOP;

/// Names that clients may never send through, folded: they state who the client is or where it
/// comes from, or they change what a backend takes the request for after the rules were asked.
const NAMES: [&str; 29] = [
    "authorization",
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "front-end-https",
    "proxy",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "ssl-client-cert",
    "ssl-client-s-dn",
    "ssl-client-verify",
    "x-client-cert",
    "x-client-ip",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-remote-user",
    "x-request-id",
    "x-rewrite-url",
    "x-scheme",
    "x-ssl-client-cert",
    "x-ssl-client-verify",
    "x-url-scheme",
];

/// Beginnings of names that clients may never send through, folded.
const FAMILIES: [&str; 4] = ["proxy-", "x-auth-request-", "x-envoy-", "x-forwarded-"];

/// Names that pass only as the standard spells them: a backend that folds `Content_Length` into
/// `CONTENT_LENGTH` would see it beside or instead of ours.
const SPELLED_EXACTLY: [&str; 4] = [
    "content-length",
    "content-type",
    "if-none-match",
    "transfer-encoding",
];

/// The set of field names that we assert ourselves: `Authorization`, the forwarding fields, the
/// usual names of identity and rewriting fields, and the configured names of assertions.
///
/// Backends of many kinds fold names (CGI, WSGI, PHP and Rack turn `X-User` and `X_User` into the
/// same variable), so names are compared folded: ASCII lower case, everything that is not a letter
/// or digit as `-`. `X%2DUser` is another name.
#[derive(Clone, Debug)]
pub struct Owned {
    names: Box<[Owning]>,
    /// Which lengths occur, by the first letter's low five bits.
    lengths: [u64; 32],
    /// The same of all that is removed from a request, whosever it is: it decides for nearly every
    /// field.
    suspects: [u64; 32],
}

#[derive(Clone, Debug)]
struct Owning {
    folded: Box<str>,
    /// The name itself passes; only its other spellings are ours to remove.
    passes_as_spelled: bool,
}

impl Owned {
    /// The built-in names and `assertions`, the configured ones.
    pub fn new<'a>(assertions: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let configured = assertions.into_iter().map(|name| {
            let folded = name
                .as_str()
                .bytes()
                .map(|byte| char::from(fold(byte)))
                .collect();
            Owning {
                folded,
                passes_as_spelled: false,
            }
        });
        let owning = |passes_as_spelled| {
            move |name: &&str| Owning {
                folded: Box::from(*name),
                passes_as_spelled,
            }
        };
        let built_in = NAMES.iter().map(owning(false));
        let names: Box<[Owning]> = built_in
            .chain(SPELLED_EXACTLY.iter().map(owning(true)))
            .chain(configured)
            .collect();
        let mut lengths = [0; 32];
        for name in &names {
            add(&mut lengths, &name.folded, length_bit(&name.folded));
        }
        let mut suspects = lengths;
        for name in HOP_BY_HOP.iter().chain([&EXPECT.as_str()]) {
            add(&mut suspects, name, length_bit(name));
        }
        for family in FAMILIES {
            add(&mut suspects, family, u64::MAX);
        }
        Self {
            names,
            lengths,
            suspects,
        }
    }

    /// Whether `name` may be one that is removed from a request: ours, hop-by-hop, or `Expect`. A
    /// `false` is certain.
    pub(super) fn suspects(&self, name: &str) -> bool {
        holds(&self.suspects, name)
    }

    /// Whether `name`, in this spelling and whatever case, is ours to assert.
    pub(crate) fn contains(&self, name: &str) -> bool {
        let bytes = name.as_bytes();
        let listed = holds(&self.lengths, name)
            && self.names.iter().any(|owned| {
                let same = owned.folded.len() == name.len() && begins_with(bytes, &owned.folded);
                same && !(owned.passes_as_spelled && owned.folded.eq_ignore_ascii_case(name))
            });
        listed
            || (is_family_row(row(name))
                && FAMILIES.iter().any(|family| begins_with(bytes, family)))
    }
}

fn row(name: &str) -> usize {
    name.bytes()
        .next()
        .map_or(0, |first| usize::from(fold(first) & 31))
}

/// Whether a family begins with a letter of this row.
fn is_family_row(row: usize) -> bool {
    FAMILIES.iter().any(|family| self::row(family) == row)
}

fn length_bit(name: &str) -> u64 {
    // Lengths that are equal modulo 64 share a bit; the names themselves decide then.
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

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}
