//! Tests of `sidegate demo --check` with the real program. The check succeeds, and each broken step
//! makes the check fail.

use std::process::Output;
use std::time::Duration;

use sidegate::demo::{Demo, ProviderKind, Purpose, Step};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::gateway::PROGRAM;

/// The steps of the check, in order. `--break` accepts the name of a step, and a failure prints the
/// name.
const STEPS: [&str; 14] = [
    "redirect",
    "login-form",
    "code",
    "exchange",
    "session-cookie",
    "bearer",
    "cache",
    "refresh",
    "post",
    "api",
    "sign-out",
    "cookie-dead",
    "streams",
    "logout",
];

/// Runs `sidegate demo` with these arguments. Returns exit code, standard output and standard
/// error.
async fn demo(arguments: &[&str]) -> (Option<i32>, String, String) {
    let running = Command::new(PROGRAM)
        .arg("demo")
        .args(arguments)
        .kill_on_drop(true)
        .output();
    // Many demos run in parallel, and each demo creates keys. Many demos in parallel take much
    // longer than a single demo.
    let ended = timeout(Duration::from_mins(2), running).await;
    let Output {
        status,
        stdout,
        stderr,
    } = ended.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Every kind of provider for which the whole demo is checked.
const PROVIDERS: [&str; 3] = ["oidc", "passport-12", "passport-13"];

/// Fails unless all steps succeeded and the output has one line for each step.
fn assert_all_steps_passed(code: Option<i32>, said: &str) {
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let (last, steps) = lines.split_last().unwrap();
    assert_eq!(*last, "All steps passed.");
    assert_eq!(steps.len(), STEPS.len(), "{said}");
    assert!(steps.iter().all(|line| line.starts_with("ok   ")), "{said}");
}

#[tokio::test]
async fn the_demo_checks_itself_with_every_kind_of_provider() {
    assert_eq!(Step::ALL.map(Step::name), STEPS);
    let (code, said, _) = demo(&["--check"]).await;
    assert_all_steps_passed(code, &said);
    for provider in PROVIDERS {
        let (code, said, complained) = demo(&["--check", "--provider", provider]).await;
        assert_all_steps_passed(code, &format!("{said}{complained}"));
    }
}

/// Runs the demo with `step` broken. Fails unless the demo fails at `step`, after `before`
/// successful steps.
async fn fails(provider: &str, step: &str, before: usize) {
    let (code, said, complained) =
        demo(&["--check", "--provider", provider, "--break", step]).await;
    let case = format!("{provider} {step}: {said}{complained}");
    assert_eq!(code, Some(1), "{case}");
    let lines: Vec<&str> = said.lines().collect();
    let (last, held) = lines.split_last().unwrap();
    let failure = format!("FAIL {step}: expected ");
    assert!(last.starts_with(&failure), "{case}");
    assert!(last.contains(", got "), "{case}");
    assert_eq!(held.len(), before, "{case}");
    let held = held.iter().all(|line| line.starts_with("ok   "));
    assert!(held, "{case}");
}

#[tokio::test]
async fn each_step_broken_on_purpose_fails_the_demo_by_its_name() {
    let mut running = JoinSet::new();
    for (before, step) in STEPS.into_iter().enumerate() {
        for provider in ["oidc", "passport-13"] {
            running.spawn(fails(provider, step, before));
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_says_what_its_provider_is() {
    for kind in ProviderKind::ALL {
        let demo = Demo::start("127.0.0.1:0".parse().unwrap(), kind, Purpose::Show).await;
        let demo = demo.unwrap();
        let said = demo.provider_as_text();
        assert!(
            said.contains(&demo.provider().address().to_string()),
            "{said}"
        );
        let issuer = format!("an OpenID Provider, issuer {}", demo.provider().base_url());
        assert_eq!(said == issuer, kind == ProviderKind::OpenId, "{said}");
        demo.stop().await;
    }
}

#[tokio::test]
async fn only_a_step_of_a_check_can_be_broken() {
    let (code, _, complained) = demo(&["--check", "--break", "login-from"]).await;
    assert_eq!(code, Some(64), "{complained}");
    assert!(complained.contains("login-form"), "{complained}");
    let (code, _, complained) = demo(&["--break", "bearer"]).await;
    assert_eq!(code, Some(64), "{complained}");
    assert!(complained.contains("--check"), "{complained}");
}

#[tokio::test]
async fn a_provider_of_another_kind_is_no_choice() {
    let (code, _, complained) = demo(&["--check", "--provider", "openid"]).await;
    assert_eq!(code, Some(64), "{complained}");
    for kind in ProviderKind::ALL {
        assert!(complained.contains(kind.name()), "{complained}");
    }
}
