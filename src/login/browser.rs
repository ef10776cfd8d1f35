//! The login cookies of a browser: the counter of recent logins, and one cookie per pending login.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::pending::Tab;
use crate::fields::cookie::{self as cookies, Found};
use crate::session::cookie;

/// The cookie that counts the logins that this browser has completed in a row.
const ROUND: &str = "__Host-sidegate-round";

/// A login that starts within this time after the previous login counts as part of a login loop.
const ROUND_LIFETIME: Duration = Duration::from_secs(20);

/// After this number of logins in a row, the gateway shows an error page instead of another
/// redirect to the provider.
pub(super) const MAX_ROUNDS: u8 = 3;

/// Returns the `Set-Cookie` value that stores the number of logins in a row.
pub(super) fn remember_rounds(rounds: u8) -> HeaderValue {
    cookie::set(ROUND, &rounds.to_string(), ROUND_LIFETIME)
}

/// Returns the `Set-Cookie` value that deletes the counter of logins in a row. After
/// [`super::Error::Loop`], the gateway deletes the counter, so that the user can try to sign in
/// again.
pub(crate) fn forget_rounds() -> HeaderValue {
    cookie::clear(ROUND)
}

/// Returns the number of logins in a row that this browser has completed.
pub(super) fn rounds(headers: &HeaderMap) -> u8 {
    match cookies::find(headers, ROUND.as_bytes()) {
        // The cookie that counts the logins of a browser is not encrypted. A user who changes the
        // counter cookie can only make the error page appear earlier or later.
        Found::One([digit @ b'0'..=b'9']) => digit.saturating_sub(b'0'),
        Found::One(_) | Found::Absent | Found::Conflicting => 0,
    }
}

/// Returns `own`, the `Set-Cookie` value of a new pending login. If the browser then has more than
/// `most` login cookies, also returns the values that delete the cookies of the oldest pending
/// logins. Too many cookies would exceed the size limit of fields, and every request of this browser
/// would fail.
pub(super) fn with_surplus_cleared(
    own: HeaderValue,
    headers: &HeaderMap,
    most: usize,
) -> Vec<HeaderValue> {
    let surplus = surplus_tabs(headers, most).map(|tab| cookie::clear(&tab.cookie()));
    std::iter::once(own).chain(surplus).collect()
}

/// Returns the oldest pending logins that a browser must forget, so that it has at most `most` login
/// cookies after the next login has begun.
fn surplus_tabs(headers: &HeaderMap, most: usize) -> impl Iterator<Item = Tab> {
    let mut tabs: Vec<Tab> = cookies::matching(headers, cookie::is_own)
        .filter_map(|(name, _)| Tab::of_cookie(name))
        .collect();
    tabs.sort_unstable();
    // The caller sets one more login cookie after this call, so `surplus` also counts this cookie.
    let surplus = tabs.len().saturating_add(1).saturating_sub(most);
    tabs.into_iter().take(surplus)
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    fn sending(cookies: &str) -> HeaderMap {
        [(header::COOKIE, HeaderValue::from_str(cookies).unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn the_round_is_one_digit_or_nothing() {
        assert_eq!(rounds(&sending("a=b; __Host-sidegate-round=2")), 2);
        for odd in ["__Host-sidegate-round=", "__Host-sidegate-round=12", "x=1"] {
            assert_eq!(rounds(&sending(odd)), 0, "{odd}");
        }
    }

    #[test]
    fn c_12_a_browser_with_too_many_pending_logins_forgets_the_oldest() {
        let cookie = |number: u32| format!("__Host-sidegate-{number:08x}00000000=x");
        let text = (1..=62).rev().map(cookie).collect::<Vec<_>>().join("; ");
        let surplus: Vec<_> = surplus_tabs(&sending(&text), 60).collect();
        let names: Vec<_> = surplus.iter().map(Tab::cookie).collect();
        let expected: Vec<_> = (1..=3)
            .map(|number: u32| format!("__Host-sidegate-{number:08x}00000000"))
            .collect();
        assert_eq!(names, expected);
        assert_eq!(surplus_tabs(&sending("a=b"), 60).count(), 0);
    }
}
