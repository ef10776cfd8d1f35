//! Which attack of the catalogue is covered by which test.
//!
//! `tests/data/coverage.txt` has one line per id: the id, a tab, and either the names of the tests
//! that cover it (separated by spaces) or `- ` and one line why it does not yet apply. The ids are
//! ranges here, so the file cannot shrink unnoticed, and every named test must exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::layering::rust_files;

/// Section, first and last number, digits of the number.
const IDS: &[(&str, RangeInclusive<u32>, usize)] = &[
    ("A", 1..=40, 2),
    ("C", 1..=15, 2),
    ("C", 20..=25, 2),
    ("H", 1..=38, 2),
    ("R", 1..=136, 1),
    ("S", 1..=38, 2),
    // The catalogue has no S-39.
    ("S", 40..=46, 2),
    ("D", 1..=7, 2),
    ("D", 24..=26, 2),
    ("D", 30..=32, 2),
    ("F", 3..=7, 2),
    ("F", 14..=14, 2),
    ("F", 18..=18, 2),
    ("F", 29..=29, 2),
    ("F", 37..=38, 2),
    ("G", 1..=8, 2),
    // The catalogue has no G-09.
    ("G", 10..=15, 2),
    ("J", 1..=80, 2),
    ("X", 1..=18, 2),
];

fn expected_ids() -> BTreeSet<String> {
    IDS.iter()
        .flat_map(|(section, numbers, digits)| {
            let digits = *digits;
            numbers
                .clone()
                .map(move |number| format!("{section}-{number:0digits$}"))
        })
        .collect()
}

/// The names of all functions that follow a `#[test]`-like attribute in `text`.
fn test_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        // Tests within `proptest!` carry the attribute too.
        let after_fn = line
            .strip_prefix("async fn ")
            .or_else(|| line.strip_prefix("fn "));
        if let Some(rest) = after_fn {
            if is_test {
                names.insert(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
            }
            is_test = false;
        }
    }
    names
}

struct Coverage {
    problems: Vec<String>,
    covered: usize,
    not_yet: usize,
}

fn check(table: &str, expected: &BTreeSet<String>, tests: &BTreeSet<String>) -> Coverage {
    let mut found = Coverage {
        problems: Vec::new(),
        covered: 0,
        not_yet: 0,
    };
    let mut seen = BTreeMap::new();
    let lines = table
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    for (number, line) in lines.filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
        let Some((id, what)) = line.split_once('\t') else {
            found.problems.push(format!("line {number}: no tab"));
            continue;
        };
        if !expected.contains(id) {
            found
                .problems
                .push(format!("line {number}: {id} is not an id of the catalogue"));
        }
        if let Some(before) = seen.insert(id, number) {
            found
                .problems
                .push(format!("line {number}: {id} is already on line {before}"));
        }
        if let Some(reason) = what.strip_prefix('-') {
            found.not_yet += 1;
            if reason.trim().len() < 10 {
                found
                    .problems
                    .push(format!("line {number}: {id} gives no reason"));
            }
            continue;
        }
        found.covered += 1;
        if what.trim().is_empty() {
            found
                .problems
                .push(format!("line {number}: {id} names no test"));
        }
        for name in what
            .split_whitespace()
            .filter(|name| !tests.contains(*name))
        {
            found
                .problems
                .push(format!("line {number}: {id} names the unknown test {name}"));
        }
    }
    let missing = expected.iter().filter(|id| !seen.contains_key(id.as_str()));
    found
        .problems
        .extend(missing.map(|id| format!("{id} has no line")));
    found
}

#[test]
fn every_id_of_the_catalogue_has_a_test_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "tests"].map(|folder| rust_files(&root.join(folder)));
    let tests = files
        .iter()
        .flatten()
        .flat_map(|file| test_names(&fs::read_to_string(file).unwrap()))
        .collect();
    let table = fs::read_to_string(root.join("tests/data/coverage.txt")).unwrap();
    let coverage = check(&table, &expected_ids(), &tests);
    println!(
        "{} ids covered, {} not yet",
        coverage.covered, coverage.not_yet
    );
    assert!(
        coverage.problems.is_empty(),
        "\n{}",
        coverage.problems.join("\n")
    );
}

#[test]
fn the_ids_are_those_of_the_catalogue() {
    let ids = expected_ids();
    assert_eq!(
        ids.len(),
        40 + 15 + 6 + 38 + 136 + 45 + 7 + 6 + 10 + 14 + 80 + 18
    );
    for id in [
        "A-01", "C-25", "R-1", "R-136", "S-46", "D-07", "F-07", "F-38", "G-15", "J-80",
    ] {
        assert!(ids.contains(id), "{id}");
    }
}

#[test]
fn a_gap_in_the_table_is_found() {
    let ids: BTreeSet<String> = ["A-01", "A-02", "A-03"].map(str::to_owned).into();
    let tests =
        test_names("#[test]\nfn a_01() {}\n\nfn helper() {}\n#[tokio::test]\nasync fn b() {}");
    assert_eq!(tests, ["a_01", "b"].map(str::to_owned).into());
    let problems = |table: &str| check(table, &ids, &tests).problems;
    let whole = "# comment\nA-01\ta_01 b\nA-02\t- no such feature yet\nA-03\tb\n";
    assert_eq!(problems(whole), [""; 0]);
    let counts = check(whole, &ids, &tests);
    assert_eq!((counts.covered, counts.not_yet), (2, 1));
    assert_eq!(
        problems(&whole.replace("A-03\tb\n", "")),
        ["A-03 has no line"]
    );
    assert_eq!(
        problems(&whole.replace("\tb", "\thelper")),
        ["line 4: A-03 names the unknown test helper"]
    );
    assert_eq!(
        problems(&whole.replace("- no such feature yet", "-")),
        ["line 3: A-02 gives no reason"]
    );
    assert_eq!(
        problems(&format!("{whole}A-01\tb\n")),
        ["line 5: A-01 is already on line 2"]
    );
    assert_eq!(
        problems(&format!("{whole}Z-01\tb\n")),
        ["line 5: Z-01 is not an id of the catalogue"]
    );
    assert_eq!(
        problems(&whole.replace("\tb\n", "\t\n")),
        ["line 4: A-03 names no test"]
    );
    assert_eq!(
        problems(&whole.replace("A-03\tb", "A-03 b")),
        ["line 4: no tab", "A-03 has no line"]
    );
}
