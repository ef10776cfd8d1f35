//! Tests the removal of fields (`strip`) with random fields.

use std::collections::BTreeSet;

use http::header::{HOST, SET_COOKIE};
use proptest::prelude::*;

use super::*;
use crate::fields::cookie::{find, matching};

/// A second implementation of the rule that normalizes names.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// Creates random names. Many of the names are similar to a name that is removed.
fn field_name() -> impl Strategy<Value = String> {
    let near = prop::sample::select(vec![
        "x-user",
        "authorization",
        "x-forwarded-for",
        "forwarded",
        "x-real-ip",
        "proxy",
        "transfer-encoding",
        "content-length",
        "connection",
        "te",
        "x-users",
        "x-forward",
        "host",
    ]);
    let separator = prop::sample::select(vec!["-", "_", ".", "~", "+", "!", "|"]);
    prop_oneof![
        "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,20}",
        (near, separator, any::<bool>()).prop_map(|(name, separator, shout)| {
            let name = name.replace('-', separator);
            if shout {
                name.to_ascii_uppercase()
            } else {
                name
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn h_38_all_fields_arrive_except_ours_and_hop_by_hop(
        sent in prop::collection::vec(field_name(), 1..21)
    ) {
        let hop = ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
            "http2-settings", "expect"];
        let mut fields = HeaderMap::new();
        for name in &sent {
            fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("v"));
        }
        // The gateway would also remove the fields that `Connection` names, so this test uses only
        // requests without `Connection`.
        fields.remove(CONNECTION);
        strip(&mut fields);
        let arrived: BTreeSet<String> = fields.keys().map(|name| name.as_str().to_owned()).collect();
        let wanted: BTreeSet<String> = sent
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .filter(|name| {
                let fold = folded(name);
                let prefix = ["x-forwarded-", "x-envoy-", "x-auth-request-", "proxy-"];
                let ours = ["x-user", "forwarded", "x-real-ip", "proxy"];
                let with_usual_prefix = ["content-length", "transfer-encoding"].contains(&&*fold) && fold != *name;
                !hop.contains(&&**name)
                    && !ours.contains(&&*fold)
                    && !with_usual_prefix
                    && !prefix.iter().any(|prefix| fold.starts_with(prefix))
            })
            .collect();
        prop_assert_eq!(arrived, wanted);
    }

    #[test]
    fn h_26_c_22_removing_cookies_keeps_all_others_byte_for_byte_and_in_order(
        lines in prop::collection::vec(prop::collection::vec(
            prop_oneof![
                Just(b"__Host-s=secret".to_vec()),
                Just(b"  __Host-s = secret".to_vec()),
                Just(Vec::new()),
                prop::collection::vec(
                    any::<u8>().prop_filter("what a value may have", |byte| {
                        (*byte >= 0x20 || *byte == b'\t') && *byte != 0x7f && *byte != b';'
                    }),
                    0..12,
                ),
            ], 0..6), 0..4)
    ) {
        let mut fields = HeaderMap::new();
        for line in &lines {
            fields.append(COOKIE, HeaderValue::from_bytes(&line.join(&b';')).unwrap());
        }
        let is_own = |name: &[u8]| name == b"__Host-s" || name == b"__Host-s ";
        let pairs = |fields: &HeaderMap| -> Vec<(Vec<u8>, Vec<u8>)> {
            matching(fields, |name| !is_own(name)).map(|(a, b)| (a.to_vec(), b.to_vec())).collect()
        };
        let others = pairs(&fields);
        remove_cookies(&mut fields, |name| name == b"__Host-s");
        prop_assert_eq!(pairs(&fields), others);
        prop_assert!(matching(&fields, is_own).next().is_none());
        prop_assert!(fields.get_all(COOKIE).iter().count() <= 1);
    }

    #[test]
    fn fields_in_a_buffer_and_in_a_map_are_read_alike(
        sent in prop::collection::vec((field_name(), prop::sample::select(vec![
            "a=1; __Host-s=x", "__Host-s=y", "b", "close, X-Users, te", "keep-alive", "",
        ])), 0..12),
        cookies in any::<bool>(),
    ) {
        let lines: Vec<(&str, &[u8])> = sent
            .iter()
            .map(|(name, value)| if cookies { ("Cookie", value.as_bytes()) } else { (&**name, value.as_bytes()) })
            .collect();
        let mut fields = HeaderMap::new();
        for (name, value) in &lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            fields.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let is_own = |name: &[u8]| name == b"__Host-s";
        prop_assert_eq!(find(&lines[..], b"__Host-s"), find(&fields, b"__Host-s"));
        prop_assert_eq!(cookie::only_line(&lines[..]), cookie::only_line(&fields));
        prop_assert_eq!(cookie::others(&lines[..], is_own), cookie::others(&fields, is_own));
        let owned = owned();
        let taken = Strip::of(&lines[..], &owned);
        let left: BTreeSet<String> = lines
            .iter()
            .filter(|(name, _)| !taken.removes(name))
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        strip(&mut fields);
        let kept: BTreeSet<String> = fields.keys().map(|name| name.as_str().to_owned()).collect();
        prop_assert_eq!(left, kept);
    }

    #[test]
    fn fields_of_any_bytes_cause_no_panic(
        value in prop::collection::vec(any::<u8>(), 0..40)
    ) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let mut fields = HeaderMap::new();
            for name in [CONNECTION, COOKIE, VIA, SET_COOKIE, HOST] {
                fields.append(name, value.clone());
            }
            strip(&mut fields.clone());
            prop_assert!(append_via(&mut fields.clone(), Version::HTTP_11).is_ok());
            outbound(&mut fields, SharedCaching::AsWritten, |_| true);
        }
    }
}
