//! Checks which attacks run in every mode.

use std::collections::{BTreeMap, BTreeSet};

use crate::coverage::{expected_ids, test_names};

/// The sections of the catalogue whose attacks depend on the settings of a route.
const SECTIONS: [char; 4] = ['H', 'P', 'R', 'C'];

/// The ids of `P-01..P-03`, or of `P-01`.
fn ids(range: &str) -> BTreeSet<String> {
    let Some((first, last)) = range.split_once("..") else {
        return [range.to_owned()].into();
    };
    let (section, first) = first.split_once('-').unwrap();
    let (_, last) = last.split_once('-').unwrap();
    // `C-09` has two digits, and `R-1` has one digit.
    let digits = first.len();
    let numbers = first.parse::<u32>().unwrap()..=last.parse().unwrap();
    let ids = numbers.map(|number| format!("{section}-{number:0digits$}"));
    ids.collect()
}

#[test]
fn every_attack_on_fields_paths_and_sessions_runs_in_each_mode_or_has_a_reason() {
    let tests: BTreeSet<String> = [
        include_str!("fields.rs"),
        include_str!("rows.rs"),
        include_str!("sessions.rs"),
    ]
    .into_iter()
    .flat_map(test_names)
    .collect();
    let mut lines: BTreeMap<String, &str> = BTreeMap::new();
    for line in include_str!("../../data/modes.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let (range, what) = line.split_once('\t').unwrap();
        match what.strip_prefix("- ") {
            Some(reason) => assert!(reason.len() > 20, "{range} has no reason"),
            None => {
                for name in what.split(' ') {
                    assert!(
                        tests.contains(name),
                        "{range} names the unknown test {name}"
                    );
                }
            }
        }
        for id in ids(range) {
            assert!(
                lines.insert(id.clone(), what).is_none(),
                "{id} is there twice"
            );
        }
    }
    let expected = expected_ids().into_iter();
    let expected: BTreeSet<String> = expected.filter(|id| id.starts_with(SECTIONS)).collect();
    let listed: BTreeSet<String> = lines.into_keys().collect();
    assert_eq!(listed, expected);
}
