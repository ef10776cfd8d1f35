use bytes::Bytes;
use http_body::Frame;

use super::*;
use crate::server::Deadlines;
use crate::server::overdue::Overdue;

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
    let deadlines = Deadlines {
        write: Duration::from_secs(30),
        ..Deadlines::default()
    };
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
    state.received(b"a");
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

#[test]
fn an_http2_client_gets_long_chunks_in_pieces_and_each_piece_is_progress() {
    let (state, start) = state();
    let request = state.begin(Protocol::Http2);
    let (stream, now) = request.stream().unwrap();
    let lengths = |frame: Option<Frame<Bytes>>| frame.map(|frame| frame.data_ref().unwrap().len());
    let chunk = Frame::data(Bytes::from(vec![0; 40 * 1024]));
    assert_eq!(lengths(Some(stream.hand_over(chunk, now))), Some(16 * 1024));
    let limits = (Duration::from_secs(30), LowestRate::new(0, Duration::ZERO));
    let failure = |now| stream.read_failure(now, None, limits);
    assert_eq!(failure(at(start, 29_999)), None);
    assert_eq!(failure(at(start, 30_000)), Some(ReadFailure::Stalled));
    assert!(stream.has_rest());
    assert_eq!(
        lengths(stream.next_piece(at(start, 20_000))),
        Some(16 * 1024)
    );
    assert_eq!(failure(at(start, 49_999)), None);
    assert_eq!(
        lengths(stream.next_piece(at(start, 40_000))),
        Some(8 * 1024)
    );
    assert!(!stream.has_rest());
    assert_eq!(lengths(stream.next_piece(at(start, 50_000))), None);
    assert_eq!(failure(at(start, 1_000_000)), None);
}

#[test]
fn an_http2_stream_below_the_lowest_rate_ends() {
    let (state, start) = state();
    let request = state.begin(Protocol::Http2);
    let (stream, _now) = request.stream().unwrap();
    let window = Duration::from_secs(10);
    let limits = (window, LowestRate::new(1000, window));
    // A client that takes 2,000 bytes every two seconds reads exactly at the lowest allowed rate.
    for (pause, expected) in [(2_000, None), (2_400, Some(ReadFailure::TooSlow))] {
        let mut failure = None;
        for piece in 1..20 {
            let now = at(start, piece * pause);
            let _rest = stream.next_piece(now);
            stream.hand_over(Frame::data(Bytes::from(vec![0; 2000])), now);
            for look in (0..pause).step_by(250) {
                failure = failure.or_else(|| stream.read_failure(at(now, look), None, limits));
            }
        }
        assert_eq!(failure, expected, "{pause}");
    }
}
