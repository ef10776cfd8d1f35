//! Tests that different inputs never produce the same key, hash or associated data.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::login::pending::associated_data;

/// Generates short fields from few different bytes: separators, bytes that look like a length, and
/// letters. The generator uses only a few different bytes, so that many generated fields are
/// similar.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::sample::select(&b"\0\x01\x02\x08/:.,|a\xff"[..]);
    prop::collection::vec(bytes, 0..5)
}

/// Generates names of providers. Some generated provider names contain characters that the settings
/// do not allow.
fn name() -> impl Strategy<Value = String> {
    let characters = prop::sample::select(vec!['a', 'b', '-', '_', '/', '.', '%', '?']);
    prop::collection::vec(characters, 0..5).prop_map(String::from_iter)
}

#[test]
fn adv_cve_2023_35941_no_two_lists_of_fields_share_a_context() {
    assert_ne!(
        associated_data(b"p", &[b"ab", b"c"]),
        associated_data(b"p", &[b"a", b"bc"])
    );
    assert_ne!(
        associated_data(b"pa", &[b"b"]),
        associated_data(b"p", &[b"ab"])
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g_11_no_two_lists_of_fields_share_the_associated_data_of_what_is_sealed(
        lists in prop::collection::vec((field(), prop::collection::vec(field(), 0..4)), 1000)
    ) {
        let mut seen = HashMap::new();
        for list in lists {
            let (purpose, fields) = &list;
            let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            if let Some(before) = seen.insert(associated_data(purpose, &fields), list.clone()) {
                prop_assert_eq!(before, list);
            }
        }
    }

    #[test]
    fn g_11_no_two_providers_or_origins_share_a_redirect_uri(
        asked in prop::collection::vec((0..4_usize, name()), 1000)
    ) {
        let origins = ["https://a.test", "https://a.test:8443", "https://aa.test", "http://localhost"];
        let origins = origins.map(|origin| PublicUrl::try_from(origin.to_owned()).unwrap());
        let own = OwnPaths::try_from("/oauth2/".to_owned()).unwrap();
        let endpoints = RedirectionEndpoints::new("/oauth2/callback", &own, ["a", "b"]);
        let mut seen = HashMap::new();
        for asked in asked {
            let uri = endpoints.redirect_uri(&origins[asked.0], &asked.1);
            if let Some(before) = seen.insert(uri, asked.clone()) {
                prop_assert_eq!(before, asked);
            }
        }
    }
}
