use super::*;

fn state() -> (Rc<ConnectionState>, Instant) {
    let coarse_clock = CoarseClock::new(Clock::system());
    (
        ConnectionState::new(([127, 0, 0, 1], 1).into(), &coarse_clock),
        coarse_clock.now(),
    )
}

fn at(start: Instant, millis: u64) -> Instant {
    start.checked_add(Duration::from_millis(millis)).unwrap()
}

#[test]
fn each_phase_has_its_own_deadline() {
    let deadlines = Deadlines::default();
    for (phase, limit, expected) in [
        (Phase::FirstByte, 10_000, Overdue::FirstByte),
        (Phase::Handshake, 10_000, Overdue::Handshake),
        (Phase::Head, 10_000, Overdue::Head),
        (Phase::Idle, 75_000, Overdue::Idle),
        (Phase::Linger, 2_000, Overdue::Linger),
    ] {
        let (state, start) = state();
        state.enter(phase);
        assert_eq!(
            state.overdue(at(start, limit - 1), &deadlines),
            None,
            "{phase:?}"
        );
        assert_eq!(state.overdue(at(start, limit), &deadlines), Some(expected));
    }
}

#[test]
fn a_request_in_flight_has_only_the_write_deadline() {
    let deadlines = Deadlines::default();
    let (state, start) = state();
    let request = state.begin(Protocol::Http1);
    assert_eq!(state.overdue(at(start, 1_000_000), &deadlines), None);
    state.send_waits();
    assert_eq!(state.overdue(at(start, 29_999), &deadlines), None);
    assert_eq!(
        state.overdue(at(start, 30_000), &deadlines),
        Some(Overdue::Write)
    );
    state.sent();
    assert_eq!(state.overdue(at(start, 30_000), &deadlines), None);
    drop(request);
    assert_eq!(
        state.overdue(at(start, 75_000), &deadlines),
        Some(Overdue::Idle)
    );
}

#[test]
fn idle_begins_when_the_last_of_several_streams_ends() {
    let (state, _start) = state();
    let one = state.begin(Protocol::Http2);
    let two = state.begin(Protocol::Http2);
    drop(one);
    assert_eq!((state.phase(), state.in_flight()), (Phase::Busy, 1));
    drop(two);
    assert_eq!((state.phase(), state.in_flight()), (Phase::Idle, 0));
    assert!(state.streams.borrow().is_empty());
}

#[test]
fn bytes_of_an_http2_connection_do_not_start_a_head_after_the_preface() {
    let (state, _start) = state();
    state.received();
    assert_eq!(state.phase(), Phase::Handshake);
    state.head_begins();
    assert_eq!(state.phase(), Phase::Head);
    state.preface_complete();
    assert_eq!(state.phase(), Phase::Idle);
    let _request = state.begin(Protocol::Http2);
    state.preface_complete();
    assert_eq!(state.phase(), Phase::Busy);
}

#[test]
fn an_idle_connection_has_a_second_to_close() {
    let deadlines = Deadlines::default();
    let (state, start) = state();
    state.enter(Phase::Idle);
    assert_eq!(state.overdue(at(start, 5_000), &deadlines), None);
    state.close();
    assert_eq!(state.overdue(at(start, 999), &deadlines), None);
    assert_eq!(
        state.overdue(at(start, 1_000), &deadlines),
        Some(Overdue::Closing)
    );
    let _request = state.begin(Protocol::Http1);
    assert_eq!(state.overdue(at(start, 1_000), &deadlines), None);
}
