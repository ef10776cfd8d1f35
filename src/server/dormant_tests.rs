//! Tests of the conditions under which a connection becomes dormant.

use std::rc::Rc;

use super::*;
use crate::clock::Clock;
use crate::server::coarse_clock::CoarseClock;
use crate::server::deadline::{Phase, Protocol};

/// Returns the state of an HTTP/1.1 connection that has been idle for [`DORMANT_AFTER`].
fn idle() -> Rc<ConnectionState> {
    let clock = CoarseClock::new(Clock::system());
    let state = ConnectionState::new(([127, 0, 0, 1], 1).into(), &clock);
    state.enter(Phase::Idle);
    state.dormancy().set(Stage::Awake);
    clock.set(clock.now().checked_add(DORMANT_AFTER).unwrap());
    state
}

#[test]
fn a_connection_that_was_asked_checks_its_state_again() {
    let state = idle();
    assert!(!state.becomes_dormant(), "nobody has asked");
    state.ask_dormant();
    assert!(state.becomes_dormant());
    assert_eq!(state.dormancy().stage(), Stage::Dormant);

    let busy = idle();
    busy.ask_dormant();
    let in_flight = busy.begin(Protocol::Http1);
    assert!(!busy.becomes_dormant());
    drop(in_flight);
    assert_eq!(busy.dormancy().stage(), Stage::Awake);
    busy.ask_dormant();
    assert_eq!(busy.dormancy().stage(), Stage::Awake, "idle for too short");
}

#[test]
fn a_connection_that_is_not_between_two_requests_does_not_become_dormant() {
    let reasons: [fn(&ConnectionState); 7] = [
        ConnectionState::close,
        ConnectionState::upgrade_requested,
        ConnectionState::body_left_unread,
        ConnectionState::send_waits,
        ConnectionState::head_begins,
        |state| state.dormancy().body_begins(),
        |state| state.set_input_is_empty(false),
    ];
    for (number, reason) in reasons.into_iter().enumerate() {
        let state = idle();
        reason(&state);
        state.ask_dormant();
        assert_eq!(state.dormancy().stage(), Stage::Awake, "reason {number}");
    }
}

#[test]
fn with_many_connections_a_connection_becomes_dormant_directly_after_a_response() {
    let clock = CoarseClock::new(Clock::system());
    let state = ConnectionState::new(([127, 0, 0, 1], 1).into(), &clock);
    state.dormancy().set(Stage::Awake);
    state.enter(Phase::Idle);
    clock.set_crowded(true);
    assert!(!state.becomes_dormant(), "no request was served");
    let in_flight = state.begin(Protocol::Http1);
    assert!(!state.becomes_dormant(), "a request is in flight");
    drop(in_flight);
    clock.set_crowded(false);
    assert!(!state.becomes_dormant(), "few connections");
    clock.set_crowded(true);
    assert!(state.becomes_dormant());
}
