//! Checks that `tests/run quick` leaves out all tests that start a browser or Python, because `quick`
//! installs only Redis.

use std::fs;
use std::path::Path;

use crate::layering::rust_files;

/// The module of a file below `tests/it`, such as `one_sign_in` or `refresh::failures`.
fn module_of(file: &Path, top: &Path) -> String {
    let name = file.strip_prefix(top).unwrap().with_extension("");
    let parts: Vec<_> = name.iter().map(|part| part.to_str().unwrap()).collect();
    let module = parts.join("::");
    module.strip_suffix("::mod").unwrap_or(&module).to_owned()
}

/// The modules that `quick` leaves out as a whole.
fn left_out(script: &str) -> Vec<String> {
    let (_, list) = script.split_once("readonly INSTALLED='").unwrap();
    let (list, _) = list.split_once('\'').unwrap();
    list.split_whitespace().map(str::to_owned).collect()
}

/// The functions of a file that start a program, in the order of the file. `starts` says whether a
/// line starts the program.
fn starting(text: &str, starts: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut function = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("fn ") {
            function = rest.split(['(', '<']).next().unwrap_or_default();
        }
        if starts(line) && found.last() != Some(&function) {
            found.push(function);
        }
    }
    found
}

#[test]
fn quick_leaves_out_the_tests_that_need_installed_programs() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let script = fs::read_to_string(top.join("run")).unwrap();
    let left_out = left_out(&script);
    assert!(left_out.contains(&"browser".to_owned()), "{left_out:?}");
    let top = top.join("it");
    let mut named = 0;
    for file in rust_files(&top) {
        let module = module_of(&file, &top);
        let is_left_out = left_out.iter().any(|left_out| {
            let rest = module.strip_prefix(left_out.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        if is_left_out || module == "quick" || module.starts_with("support::") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let in_python = starting(&text, |line| line.contains("python()"));
        assert!(in_python.is_empty(), "{module}: {in_python:?} start Python");
        let in_a_browser = |line: &str| line.contains("Chromium::") || line.contains("chromium(&");
        for function in starting(&text, in_a_browser) {
            assert!(
                function.contains("real_browser"),
                "{module}::{function} starts a browser. `tests/run quick` runs it, because its name \
                 does not contain `real_browser`"
            );
            named += 1;
        }
    }
    assert!(named > 5, "{named}");
}
