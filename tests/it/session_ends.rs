//! `docs/sessions.md` explains each code for the end of a session.

use std::fs;

use crate::support::program::project;

const PAGE: &str = include_str!("../../docs/sessions.md");

/// The codes that the function `reason` of a file returns.
fn codes(file: &str) -> Vec<String> {
    let text = fs::read_to_string(project(file)).unwrap();
    let (_, function) = text
        .split_once("fn reason(self) -> &'static str {")
        .unwrap();
    let function = function.split("\n    }\n").next().unwrap();
    let arms = function.lines().filter_map(|line| {
        let (_, code) = line.split_once("=> \"")?;
        Some(code.trim_end_matches("\",").to_owned())
    });
    arms.collect()
}

#[test]
fn the_page_about_sessions_explains_each_code_for_the_end_of_a_session() {
    let (_, section) = PAGE.split_once("\n## Every end of a session\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    for (file, least) in [
        ("src/session/ending.rs", 12),
        ("src/access/decision.rs", 13),
    ] {
        let codes = codes(file);
        assert!(codes.len() >= least, "{file}: {codes:?}");
        for code in codes {
            assert!(section.contains(&format!("`{code}`")), "{file}: {code}");
        }
    }
}
