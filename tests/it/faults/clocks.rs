//! The clock of the machine is set to another time.

use std::sync::Arc;

use super::{Plan, Row, run_row};
use crate::support::fake_clock::FakeClock;

/// The times to which the clock is set, in seconds from the right time: the steps of a time server, a
/// wrong time zone, and each step back.
const STEPS: [i64; 8] = [1, -1, 30, -30, 300, -300, 3600, 0];

/// The number of requests of the bystanders after each step.
const REQUESTS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_18_steps_of_the_system_clock_sign_nobody_out_and_nobody_has_to_wait() {
    let clock = Arc::new(FakeClock::new());
    let plan = Plan {
        clock: Some(Arc::clone(&clock)),
        ..Plan::default()
    };
    run_row("clock steps", plan, async |row: &mut Row| {
        row.outcome.more_rows += STEPS.len() - 1;
        let mut users = vec![("alice".to_owned(), row.cookie("alice").await)];
        for (number, step) in STEPS.iter().enumerate() {
            clock.set(*step);
            row.bystanders_go_on(REQUESTS).await;
            let user = format!("user{number}");
            let cookie = row.cookie(&user).await;
            users.push((user, cookie));
            for (user, cookie) in &users {
                row.is_signed_in(user, cookie).await;
            }
        }
    })
    .await;
}
