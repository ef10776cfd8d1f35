//! Checks that each row of `tests/data/deployments.txt` names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::coverage::test_names;
use crate::layering::rust_files;

const TABLE: &str = include_str!("../data/deployments.txt");
const SETTINGS: &str = include_str!("../data/settings_mistakes.txt");

/// The names of the tests, and the names of the cases of `settings_mistakes.txt`.
struct Known {
    tests: BTreeSet<String>,
    cases: BTreeSet<String>,
}

impl Known {
    /// Returns the problem of a row, if the row has a problem.
    fn problem(&self, row: &str) -> Option<String> {
        let [part, point, proof] = row.split('\t').collect::<Vec<_>>()[..] else {
            return Some(format!("not three columns: {row}"));
        };
        if !matches!(part, "1" | "2" | "3") || point.len() < 10 {
            return Some(format!("no part or no point: {row}"));
        }
        if let Some(reason) = proof.strip_prefix("- not yet: ") {
            return (reason.len() < 10).then(|| format!("no reason: {row}"));
        }
        let (mut named, known): (Box<dyn Iterator<Item = &str>>, _) =
            match proof.strip_prefix("settings: ") {
                Some(cases) => (Box::new(cases.split("; ")), &self.cases),
                None => (Box::new(proof.split(' ')), &self.tests),
            };
        let unknown = named.find(|name| !known.contains(*name));
        unknown.map(|name| format!("`{name}` does not exist: {point}"))
    }
}

fn rows(table: &str) -> Vec<&str> {
    let rows = table.lines();
    rows.filter(|row| !row.is_empty() && !row.starts_with('#'))
        .collect()
}

#[test]
fn each_point_about_deployments_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "tests"].map(|folder| rust_files(&root.join(folder)));
    let known = Known {
        tests: files
            .iter()
            .flatten()
            .flat_map(|file| test_names(&fs::read_to_string(file).unwrap()))
            .collect(),
        cases: SETTINGS
            .split("\n== ")
            .skip(1)
            .filter_map(|case| case.lines().next())
            .map(str::to_owned)
            .collect(),
    };
    let rows = rows(TABLE);
    let missing = rows.iter().filter(|row| row.contains("\t- not yet: "));
    println!(
        "\ndeployments: rows={} not_yet={}",
        rows.len(),
        missing.count()
    );
    for part in ["1\t", "2\t", "3\t"] {
        let count = rows.iter().filter(|row| row.starts_with(part)).count();
        assert!(count >= 10, "{part}: {count}");
    }
    let problems: Vec<String> = rows.iter().filter_map(|row| known.problem(row)).collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn a_row_about_deployments_with_a_mistake_is_found() {
    let known = Known {
        tests: ["a_test".to_owned(), "b_test".to_owned()].into(),
        cases: ["a glob".to_owned(), "two globs".to_owned()].into(),
    };
    for good in [
        "1\ta point of part 1\ta_test b_test",
        "2\ta point of part 2\tsettings: a glob; two globs",
        "3\ta point of part 3\t- not yet: it is planned",
    ] {
        assert_eq!(known.problem(good), None);
    }
    for bad in [
        "1\ta point of part 1",
        "4\ta point of part 4\ta_test",
        "1\tshort\ta_test",
        "1\ta point of part 1\tc_test",
        "1\ta point of part 1\t",
        "1\ta point of part 1\tsettings: a glob; three globs",
        "1\ta point of part 1\t- not yet: no",
    ] {
        assert!(known.problem(bad).is_some(), "{bad}");
    }
}
