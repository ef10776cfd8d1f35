//! Checks which tests cover which attacks of the catalogue.
//!
//! `docs/attacks.md` has one line for each attack id, with the attack and the protection.
//! `tests/data/coverage.txt` has the same ids as `docs/attacks.md`. Each line of `coverage.txt` has
//! a tab after the id. The names of the tests that cover the attack follow the tab, separated by
//! spaces. For an attack without a test, `- not yet: ` or `- does not apply: ` follows the tab,
//! with the reason. The file `coverage.rs` lists the ids as ranges, so that a missing id in one of
//! the two files is noticed. Every named test must exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::layering::rust_files;

/// The ids of the catalogue: a section, the range of numbers, and the number of digits of a number.
const IDS: &[(&str, RangeInclusive<u32>, usize)] = &[
    ("A", 1..=51, 2),
    ("B", 1..=21, 2),
    // The catalogue has no C-16 to C-19.
    ("C", 1..=15, 2),
    ("C", 20..=27, 2),
    ("D", 1..=43, 2),
    ("E", 1..=8, 2),
    ("F", 1..=40, 2),
    // It has no G-09.
    ("G", 1..=8, 2),
    ("G", 10..=15, 2),
    ("H", 1..=44, 2),
    ("J", 1..=80, 2),
    ("K", 1..=12, 2),
    // The catalogue has no L-07 to L-09.
    ("L", 1..=6, 2),
    ("L", 10..=13, 2),
    ("M", 1..=3, 2),
    ("P", 1..=64, 2),
    ("R", 1..=136, 1),
    // It has no S-39.
    ("S", 1..=38, 2),
    ("S", 40..=47, 2),
    ("T", 1..=16, 2),
    ("W", 1..=11, 2),
    ("X", 1..=27, 2),
];

pub(crate) fn expected_ids() -> BTreeSet<String> {
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
pub(crate) fn test_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        // Tests in `proptest!` also have the attribute `#[test]`.
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

/// The contents of the table, for all ids.
#[derive(Debug, Default)]
struct Coverage {
    problems: Vec<String>,
    /// The reason in the table for each id without a test.
    reasons: BTreeMap<String, String>,
    covered: usize,
    not_yet: usize,
    not_applicable: usize,
    /// Ids of the catalogue with neither a test nor a reason.
    unexplained: usize,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let applicable = self.covered + self.not_yet + self.unexplained;
        write!(
            f,
            "security: covered={} applicable={applicable} total={} unexplained={}",
            self.covered,
            applicable + self.not_applicable,
            self.unexplained
        )
    }
}

impl Coverage {
    /// Reads the part of a line after the tab.
    fn read(&mut self, id: &str, what: &str, tests: &BTreeSet<String>) -> Result<(), String> {
        let Some(reason) = what.strip_prefix("- ") else {
            let mut names = what.split_whitespace().peekable();
            if names.peek().is_none() {
                return Err(format!("{id} names no test"));
            }
            if let Some(unknown) = names.find(|name| !tests.contains(*name)) {
                return Err(format!("{id} names the unknown test {unknown}"));
            }
            self.covered += 1;
            return Ok(());
        };
        let (kind, text) = reason.split_once(": ").unwrap_or_default();
        let count = match kind {
            "not yet" => &mut self.not_yet,
            "does not apply" => &mut self.not_applicable,
            _ => return Err(format!("{id} gives no reason")),
        };
        if text.trim().len() < 10 {
            return Err(format!("{id} gives no reason"));
        }
        *count += 1;
        self.reasons.insert(id.to_owned(), reason.to_owned());
        Ok(())
    }
}

fn check(table: &str, expected: &BTreeSet<String>, tests: &BTreeSet<String>) -> Coverage {
    let mut found = Coverage::default();
    let mut seen = BTreeMap::new();
    let lines = table
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    for (number, line) in lines.filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
        let mut problem = |what: String| found.problems.push(format!("line {number}: {what}"));
        let Some((id, what)) = line.split_once('\t') else {
            problem("no tab".to_owned());
            continue;
        };
        if !expected.contains(id) {
            problem(format!("{id} is not an id of the catalogue"));
            continue;
        }
        if let Some(before) = seen.insert(id, number) {
            problem(format!("{id} is already on line {before}"));
            continue;
        }
        if let Err(what) = found.read(id, what, tests) {
            found.unexplained += 1;
            found.problems.push(format!("line {number}: {what}"));
        }
    }
    for missing in expected.iter().filter(|id| !seen.contains_key(id.as_str())) {
        found.unexplained += 1;
        found.problems.push(format!("{missing} has no line"));
    }
    found
}

/// The problems of the catalogue. The rows of the catalogue have the form `| id | attack |
/// protection |`.
fn check_catalogue(
    page: &str,
    expected: &BTreeSet<String>,
    reasons: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        // A bar inside a cell is written `\|`.
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let id = cells[0];
        if matches!(id, "id" | "---") {
            continue;
        }
        if !expected.contains(id) {
            problems.push(format!("{id} is not an id of the catalogue"));
        }
        if !seen.insert(id.to_owned()) {
            problems.push(format!("{id} is there twice"));
        }
        let [_, attack, why] = cells[..] else {
            problems.push(format!("{id} has {} columns", cells.len()));
            continue;
        };
        if attack.len() < 3 || why.len() < 8 {
            problems.push(format!("{id} has no text"));
        }
        let why = why.strip_suffix('.').unwrap_or(why);
        let of_table = reasons.get(id);
        let unproven = ["Not yet: ", "Does not apply: "];
        if unproven.iter().any(|begin| why.starts_with(begin)) || of_table.is_some() {
            let same = of_table.is_some_and(|reason| reason.eq_ignore_ascii_case(why));
            if !same {
                problems.push(format!(
                    "{id}: the table says {of_table:?}, the page {why:?}"
                ));
            }
        }
    }
    let missing = expected.difference(&seen);
    problems.extend(missing.map(|id| format!("{id} has no line")));
    problems
}

/// `tests/run coverage` prints the line that begins with `security:`.
#[test]
fn every_id_of_the_catalogue_has_a_test_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "tests"].map(|folder| rust_files(&root.join(folder)));
    let tests = files
        .iter()
        .flatten()
        .flat_map(|file| test_names(&fs::read_to_string(file).unwrap()))
        .collect();
    let (ids, read) = (expected_ids(), |path| {
        fs::read_to_string(root.join(path)).unwrap()
    });
    let mut coverage = check(&read("tests/data/coverage.txt"), &ids, &tests);
    let page = check_catalogue(&read("docs/attacks.md"), &ids, &coverage.reasons);
    coverage.problems.extend(page);
    println!("\n{coverage}");
    assert!(
        coverage.problems.is_empty(),
        "\n{}",
        coverage.problems.join("\n")
    );
}

#[test]
fn the_ids_are_those_of_the_catalogue() {
    let ids = expected_ids();
    assert_eq!(ids.len(), 649);
    for id in [
        "A-01", "B-21", "C-25", "R-1", "R-136", "S-46", "D-37", "F-40", "G-15", "J-80", "P-64",
    ] {
        assert!(ids.contains(id), "{id}");
    }
}

fn three() -> (BTreeSet<String>, BTreeSet<String>) {
    let ids = ["A-01", "A-02", "A-03"].map(str::to_owned).into();
    let tests =
        test_names("#[test]\nfn a_01() {}\n\nfn helper() {}\n#[tokio::test]\nasync fn b() {}");
    (ids, tests)
}

#[test]
fn a_gap_in_the_table_is_found() {
    let (ids, tests) = three();
    assert_eq!(tests, ["a_01", "b"].map(str::to_owned).into());
    let problems = |table: &str| check(table, &ids, &tests).problems;
    let whole = "# comment\nA-01\ta_01 b\nA-02\t- not yet: no such feature\nA-03\tb\n";
    assert_eq!(problems(whole), [""; 0]);
    let line = |table: &str| check(table, &ids, &tests).to_string();
    assert_eq!(
        line(whole),
        "security: covered=2 applicable=3 total=3 unexplained=0"
    );
    assert_eq!(
        line(&whole.replace("not yet", "does not apply")),
        "security: covered=2 applicable=2 total=3 unexplained=0"
    );
    assert_eq!(
        line(&whole.replace("A-03\tb", "A-03\tc")),
        "security: covered=1 applicable=3 total=3 unexplained=1"
    );
    for (changed, problem) in [
        (whole.replace("A-03\tb\n", ""), "A-03 has no line"),
        (
            whole.replace("\tb", "\thelper"),
            "line 4: A-03 names the unknown test helper",
        ),
        (
            whole.replace("- not yet: no such feature", "- no such feature"),
            "line 3: A-02 gives no reason",
        ),
        (
            whole.replace("no such feature", "no"),
            "line 3: A-02 gives no reason",
        ),
        (
            format!("{whole}A-01\tb\n"),
            "line 5: A-01 is already on line 2",
        ),
        (
            format!("{whole}Z-01\tb\n"),
            "line 5: Z-01 is not an id of the catalogue",
        ),
        (whole.replace("\tb\n", "\t\n"), "line 4: A-03 names no test"),
    ] {
        assert_eq!(problems(&changed), [problem]);
    }
    assert_eq!(
        problems(&whole.replace("A-03\tb", "A-03 b")),
        ["line 4: no tab", "A-03 has no line"]
    );
}

#[test]
fn a_gap_in_the_catalogue_is_found() {
    let (ids, _tests) = three();
    let reasons = [("A-02".to_owned(), "not yet: no such feature".to_owned())].into();
    let problems = |page: &str| check_catalogue(page, &ids, &reasons);
    let whole = "# Attacks\n\n| id | attack | protection |\n| --- | --- | --- |\n\
                 | A-01 | `a\\|b` | It is refused. |\n| A-02 | Another. | Not yet: no such feature. |\n\
                 | A-03 | A third. | It is refused. |\n";
    assert_eq!(problems(whole), [""; 0]);
    for (changed, problem) in [
        (
            whole.replace("| A-03 | A third. | It is refused. |\n", ""),
            "A-03 has no line",
        ),
        (whole.replace("A third.", ""), "A-03 has no text"),
        (whole.replace("A third. | ", ""), "A-03 has 2 columns"),
        (
            whole.replace("Not yet: no such feature", "It is refused"),
            "A-02: the table says Some(\"not yet: no such feature\"), the page \"It is refused\"",
        ),
        (
            whole.replace(
                "A third. | It is refused",
                "A third. | Not yet: nobody knows",
            ),
            "A-03: the table says None, the page \"Not yet: nobody knows\"",
        ),
        (
            format!("{whole}| A-01 | Again. | It is refused. |\n"),
            "A-01 is there twice",
        ),
        (
            format!("{whole}| Z-01 | No such. | It is refused. |\n"),
            "Z-01 is not an id of the catalogue",
        ),
    ] {
        assert_eq!(problems(&changed), [problem]);
    }
}
