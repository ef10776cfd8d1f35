//! The canonical authority of a target.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::Ipv6Addr;
use std::sync::Arc;

use http::HeaderValue;

use super::Error;
use super::byte_set::ByteSet;

/// The maximum length of a host name as text, without the dot at the end (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// The maximum length of a label in a name, in bytes.
const MAX_LABEL: usize = 63;

/// The characters of a label in canonical form.
static LABEL: ByteSet = ByteSet::alphanumeric_and(b"-_").without_upper_case();

/// A canonical authority. A clone copies no text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Host(Arc<Authority>);

/// A canonical authority as text, and as a field value.
#[derive(Debug, Eq, PartialEq)]
struct Authority {
    text: Box<str>,
    value: HeaderValue,
}

/// The host of the last request on a connection.
///
/// Most clients name the same host in all requests of a connection, so most requests need no parser
/// and no allocation for their host. The host is a copy and not a part of the request head, because
/// a part would keep the buffer of the whole head in memory while the connection is idle.
#[derive(Debug, Default)]
pub(crate) struct RecentHost(RefCell<Option<Host>>);

impl RecentHost {
    /// Returns the result of [`Host::parse`] for the received authority.
    pub(super) fn parse(&self, received: &[u8]) -> Result<Host, Error> {
        if let Some(host) = &*self.0.borrow()
            && host.authority().as_bytes() == received
        {
            return Ok(host.clone());
        }
        let host = Host::parse(received)?;
        *self.0.borrow_mut() = Some(host.clone());
        Ok(host)
    }
}

impl Host {
    /// Parses `host [ ":" port ]` (RFC 9110 section 7.2). The host is an IPv6 address in brackets,
    /// or a name. Each label of a name consists of 1 to 63 characters: letters, digits, `-` and
    /// `_`. An IPv4 address has the same syntax as a name. Letters become lower case. A dot at the
    /// end of the host is removed. The ports 80 and 443 are removed, with and without TLS. For an
    /// app, `example.com`, `example.com:80` and `example.com:443` are the same site. All other
    /// forms of an authority are rejected: user information, percent-encodings, zone ids, raw
    /// UTF-8, an empty port, and a port with leading zeros.
    fn parse(received: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(received).map_err(|_not_ascii| Error::HostMalformed)?;
        if is_plain(received) {
            return Self::new(text.into());
        }
        let (received, port) = split(text);
        let name = match received.strip_prefix('[') {
            Some(literal) => parse_address(received, literal)?,
            None => parse_name(received)?,
        };
        let port = port.map(|port| parse_port(port.as_bytes())).transpose()?;
        let port = port.filter(|port| !matches!(port, 80 | 443));
        Self::new(match port {
            Some(port) => format!("{name}:{port}").into(),
            None => name.into(),
        })
    }

    fn new(text: Box<str>) -> Result<Self, Error> {
        let value = HeaderValue::from_str(&text).map_err(|_invalid| Error::HostMalformed)?;
        Ok(Self(Arc::new(Authority { text, value })))
    }

    pub(super) fn authority(&self) -> &str {
        &self.0.text
    }

    pub(super) fn value(&self) -> &HeaderValue {
        &self.0.value
    }
}

/// Returns the canonical form of an authority from the settings, which is the form of a target's
/// authority ([`super::Target::authority`]).
///
/// # Errors
///
/// [`Error::HostMalformed`].
pub(crate) fn canonical_authority(text: &str) -> Result<Box<str>, Error> {
    Host::parse(text.as_bytes()).map(|host| host.authority().into())
}

/// Performs a quick check. Returns true if the authority is certainly canonical: it has lower-case
/// labels and no default port. In practice, this function returns true for nearly all authorities.
/// If this function returns false, [`Host::parse`] parses the authority.
fn is_plain(authority: &[u8]) -> bool {
    let mut label = 0_usize;
    let mut end = None;
    for (at, byte) in authority.iter().enumerate() {
        match byte {
            byte if LABEL.contains(*byte) => label = label.saturating_add(1),
            b'.' | b':' if !(1..=MAX_LABEL).contains(&label) => return false,
            b'.' => label = 0,
            b':' => {
                end = Some(at);
                break;
            }
            _ => return false,
        }
    }
    let digits = end.and_then(|colon| authority.get(colon.saturating_add(1)..));
    let port_is_plain =
        digits.is_none_or(|digits| parse_port(digits).is_ok_and(|port| !matches!(port, 80 | 443)));
    let length = end.unwrap_or(authority.len());
    length <= MAX_NAME && (1..=MAX_LABEL).contains(&label) && port_is_plain
}

/// Splits an authority into host and port. A colon inside brackets belongs to an IPv6 address.
fn split(text: &str) -> (&str, Option<&str>) {
    // In a short text, a search for a byte is faster than a search for a `char`.
    let bytes = text.as_bytes();
    let last = |wanted| bytes.iter().rposition(|byte| *byte == wanted);
    let colon = match last(b']') {
        Some(bracket) => last(b':').filter(|colon| *colon > bracket),
        None => bytes.iter().position(|byte| *byte == b':'),
    };
    match colon.and_then(|colon| text.split_at_checked(colon)) {
        None => (text, None),
        Some((name, port)) => (name, port.strip_prefix(':')),
    }
}

/// Parses a port: digits without a leading zero, up to 65535.
fn parse_port(text: &[u8]) -> Result<u16, Error> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(*byte & 0x0f));
    let mut digits = text.iter().map(digit);
    let first = digits.next().flatten().filter(|first| *first != 0);
    first
        .and_then(|first| {
            digits.try_fold(first, |port, digit| {
                port.checked_mul(10)?.checked_add(digit?)
            })
        })
        .ok_or(Error::HostMalformed)
}

/// Parses an IPv6 address in brackets. `inner` is the part of `name` after the first bracket.
fn parse_address<'a>(name: &'a str, inner: &str) -> Result<Cow<'a, str>, Error> {
    let address = inner
        .strip_suffix(']')
        .and_then(|inner| inner.parse::<Ipv6Addr>().ok());
    let canonical = format!("[{}]", address.ok_or(Error::HostMalformed)?);
    Ok(if canonical == name {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(canonical)
    })
}

fn parse_name(name: &str) -> Result<Cow<'_, str>, Error> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label_fits = |label: &[u8]| {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=MAX_LABEL).contains(&label.len()) && label.iter().all(allowed)
    };
    let mut labels = name.as_bytes().split(|byte| *byte == b'.');
    if name.len() > MAX_NAME || !labels.all(label_fits) {
        return Err(Error::HostMalformed);
    }
    let has_upper_case = name.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(if has_upper_case {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_check_and_the_parser_agree() {
        let long = "a".repeat(MAX_LABEL);
        let longer = format!("{long}a");
        let names = [
            "a", "a.b", "a-1_b.c", "1.2.3.4", &long, &longer, "A", "", "a.", ".a", "a..b",
        ];
        let ports = ["", ":8080", ":80", ":443", ":", ":08", ":65536", ":x"];
        let mut all_plain = 0;
        for (name, port) in names.iter().flat_map(|name| ports.map(|port| (name, port))) {
            let text = format!("{name}{port}");
            if !is_plain(text.as_bytes()) {
                continue;
            }
            all_plain += 1;
            let written = port.strip_prefix(':');
            assert_eq!(split(&text), (*name, written));
            assert_eq!(parse_name(name), Ok(Cow::Borrowed(*name)));
            let read = written.map(|port| parse_port(port.as_bytes()).unwrap());
            assert!(!matches!(read, Some(80 | 443)), "{text}");
        }
        // The quick check (`is_plain`) accepts the first five names of the list, both without a
        // port and with the port `:8080`.
        assert_eq!(all_plain, 10);
    }

    #[test]
    fn a_name_of_253_bytes_is_taken_and_a_longer_one_is_refused() {
        let label = "a".repeat(MAX_LABEL);
        let longest = [&*label, &label, &label, &"b".repeat(61)].join(".");
        assert_eq!(longest.len(), MAX_NAME);
        let spellings = |name: &str| {
            [
                name.to_owned(),
                name.to_ascii_uppercase(),
                format!("{name}."),
            ]
        };
        let read = |name: &str| Host::parse(name.as_bytes());
        for name in spellings(&longest) {
            assert_eq!(read(&name).unwrap().authority(), longest, "{name}");
        }
        for more in ["b", ".b"] {
            for name in spellings(&format!("{longest}{more}")) {
                assert_eq!(read(&name), Err(Error::HostMalformed), "{name}");
            }
        }
    }
}
