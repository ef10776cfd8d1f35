//! The check that a request comes from one of the gateway's own pages.

use http::{HeaderMap, header};

use super::PublicUrl;
use crate::fields::{OnlyValue, SEC_FETCH_SITE, View as _};

/// Checks whether a request comes from a page of `public_url`. The same-origin check stops
/// cross-site request forgery.
///
/// If a request has `Sec-Fetch-Site`, only this field is checked. A page cannot set
/// `Sec-Fetch-Site`, and the value is correct even if the page hides its origin (`Origin: null`).
/// `Origin` is checked for older browsers, which do not send `Sec-Fetch-Site`. A request with
/// neither `Sec-Fetch-Site` nor `Origin` is refused.
pub(crate) fn same_origin(headers: &HeaderMap, public_url: &PublicUrl) -> SameOrigin {
    let same = match headers.only_value(&SEC_FETCH_SITE) {
        OnlyValue::One(site) => site == b"same-origin",
        // A browser sends only one `Sec-Fetch-Site`. A request with two `Sec-Fetch-Site` values is
        // refused.
        OnlyValue::Several => false,
        OnlyValue::Absent => {
            headers.only_value(&header::ORIGIN) == OnlyValue::One(public_url.origin().as_bytes())
        }
    };
    if same {
        SameOrigin::Yes
    } else {
        SameOrigin::No
    }
}

/// Checks whether a GET request comes from a script of a page of `public_url`. A browser without
/// `Sec-Fetch-Site` sends no `Origin` with such a request, so `Referer` decides.
pub(crate) fn same_origin_get(headers: &HeaderMap, public_url: &PublicUrl) -> SameOrigin {
    if headers.has(&SEC_FETCH_SITE) || headers.has(&header::ORIGIN) {
        return same_origin(headers, public_url);
    }
    let OnlyValue::One(page) = headers.only_value(&header::REFERER) else {
        return SameOrigin::No;
    };
    match page.strip_prefix(public_url.origin().as_bytes()) {
        Some(path) if path.starts_with(b"/") => SameOrigin::Yes,
        Some(_) | None => SameOrigin::No,
    }
}

/// The result of [`same_origin`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum SameOrigin {
    /// The request comes from one of our own pages.
    Yes,
    /// The request comes from another origin, or the origin of the request is not known.
    No,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let pairs = values.iter().map(|value| {
            (
                header::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        pairs.collect()
    }

    #[test]
    fn c_21_only_our_own_pages_are_of_the_same_origin() {
        let url = PublicUrl::try_from("https://gw.test".to_owned()).unwrap();
        assert_eq!(
            same_origin(&headers("origin", &["https://gw.test"]), &url),
            SameOrigin::Yes
        );
        let by_site = headers("sec-fetch-site", &["same-origin"]);
        assert_eq!(same_origin(&by_site, &url), SameOrigin::Yes);
        for foreign in [
            "null",
            "http://gw.test",
            "https://gw.test.evil",
            "https://GW.test",
            "",
        ] {
            assert_eq!(
                same_origin(&headers("origin", &[foreign]), &url),
                SameOrigin::No
            );
        }
        let twice = headers("origin", &["https://gw.test", "https://evil.test"]);
        assert_eq!(same_origin(&twice, &url), SameOrigin::No);
        assert_eq!(same_origin(&HeaderMap::new(), &url), SameOrigin::No);
        for site in ["cross-site", "same-site", "none"] {
            assert_eq!(
                same_origin(&headers("sec-fetch-site", &[site]), &url),
                SameOrigin::No
            );
        }
    }

    #[test]
    fn a_get_of_an_older_browser_is_judged_by_its_referer() {
        let url = PublicUrl::try_from("https://gw.test".to_owned()).unwrap();
        for (name, value, same) in [
            ("referer", "https://gw.test/", SameOrigin::Yes),
            ("referer", "https://gw.test/page?x", SameOrigin::Yes),
            ("referer", "https://gw.test.evil/", SameOrigin::No),
            ("referer", "https://gw.test", SameOrigin::No),
            ("referer", "http://gw.test/", SameOrigin::No),
            ("origin", "https://gw.test", SameOrigin::Yes),
            ("origin", "https://evil.test", SameOrigin::No),
            ("sec-fetch-site", "same-origin", SameOrigin::Yes),
            ("sec-fetch-site", "none", SameOrigin::No),
        ] {
            let found = same_origin_get(&headers(name, &[value]), &url);
            assert_eq!(found, same, "{name}: {value}");
        }
        assert_eq!(same_origin_get(&HeaderMap::new(), &url), SameOrigin::No);
        let mut both = headers("referer", &["https://gw.test/"]);
        both.insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert_eq!(same_origin_get(&both, &url), SameOrigin::No);
    }

    #[test]
    fn a_page_that_hides_its_origin_may_still_sign_out() {
        let url = PublicUrl::try_from("https://gw.test".to_owned()).unwrap();
        let mut hidden = headers("origin", &["null"]);
        hidden.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        assert_eq!(same_origin(&hidden, &url), SameOrigin::Yes);
        hidden.insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        hidden.insert("origin", HeaderValue::from_static("https://gw.test"));
        assert_eq!(same_origin(&hidden, &url), SameOrigin::No);
    }
}
