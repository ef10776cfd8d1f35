//! The result of a failed step.

use crate::demo::browser::Error;

/// The expected and the actual result of a failed step.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) got: String,
}

/// The result of a step.
pub(super) type StepResult = Result<(), Mismatch>;

/// Returns a mismatch if the argument `holds` is false.
pub(super) fn expect(holds: bool, expected: &str, got: impl FnOnce() -> String) -> StepResult {
    if holds {
        return Ok(());
    }
    Err(Mismatch {
        expected: expected.to_owned(),
        got: got(),
    })
}

/// Returns the mismatch for an answer without the data that the next step needs.
pub(super) fn missing_answer() -> Mismatch {
    Mismatch {
        expected: "an answer that the next step can use".to_owned(),
        got: "none".to_owned(),
    }
}

/// Returns the mismatch for a request without an answer.
pub(super) fn request_failed(error: &Error) -> Mismatch {
    let mut got = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        got.push_str(": ");
        got.push_str(&error.to_string());
        cause = error.source();
    }
    Mismatch {
        expected: "an answer".to_owned(),
        got,
    }
}
