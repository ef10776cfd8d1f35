//! Framing over HTTP/2. The tests write the frames by hand.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::h2::{
    CONTINUATION, END_HEADERS, END_STREAM, H2, HEADERS, Outcome, frame, indexed_literal, literals,
};
use crate::support::raw::Raw;
use crate::support::scene::{ROUTES, Scene};
use crate::support::upstream::{Answer, Recorded};

/// A valid HTTP/2 request, with some fields replaced or added.
fn h2_fields<'a>(changes: &[(&'a [u8], &'a [u8])]) -> Vec<(&'a [u8], &'a [u8])> {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/public/x"),
    ];
    for (name, value) in changes {
        match fields
            .iter_mut()
            .find(|(known, _)| known == name && name.starts_with(b":"))
        {
            Some(known) => known.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

#[tokio::test]
async fn s_34_h_23_malformed_heads_of_http_2_are_refused() {
    let (scene, tls) = Scene::over_tls().await;
    let connect = || H2::connect(scene.gateway.address(), "localhost", tls.client(&["h2"]));
    let mut good = connect().await;
    good.head(1, &h2_fields(&[]), false).await;
    assert_eq!(good.outcome(1).await, Outcome::Status(200));
    let before = scene.app.count();
    let cases: &[&[(&[u8], &[u8])]] = &[
        &[(b":path", b"/public/x HTTP/1.1\r\nX: y")],
        &[(b":path", b"/public/ x")],
        &[(b":path", b"https://evil.test/public/x")],
        &[(b":path", b"public/x")],
        &[(b":path", b"")],
        &[(b":path", b"?/public/x")],
        &[(b":path", b"?")],
        &[(b":path", b"#/public/x")],
        &[(b":path", b"*")],
        &[(b":method", b"GET / HTTP/1.1\r\n")],
        &[(b":method", b"get")],
        &[(b":authority", b"localhost/a")],
        &[(b":authority", b"a@localhost")],
        &[(b":authority", b"evil.test")],
        &[(b":scheme", b"ftp")],
        &[(b":scheme", b"ht tp")],
        &[(b"x:y", b"z")],
        &[(b"x\r\ny", b"z")],
        &[(b"x", b"a\nb")],
        &[(b"x", b"a\rb")],
        &[(b"x", b"a\0b")],
        &[(b"X", b"y")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"connection", b"keep-alive")],
        &[(b"te", b"gzip")],
        &[(b"content-length", b"5")],
        &[(b"content-length", b"0"), (b"content-length", b"1")],
        &[(b"host", b"evil.test")],
        &[(b"host", b"localhost"), (b"host", b"localhost")],
        &[(b":path", b"/public/../admin")],
        &[(b"x", b"y"), (b":extra", b"z")],
    ];
    for case in cases {
        let mut connection = connect().await;
        connection.head(1, &h2_fields(case), false).await;
        let outcome = connection.outcome(1).await;
        let refused = match outcome {
            Outcome::Refused => true,
            // A rule of the route `/` would answer 401.
            Outcome::Status(status) if case[0].1.starts_with(b"?") => status == 400,
            Outcome::Status(status) => (400..500).contains(&status),
        };
        let shown: Vec<_> = case
            .iter()
            .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        assert!(refused, "{shown:?} gave {outcome:?}");
        assert_eq!(scene.app.count(), before, "{shown:?} reached the app");
    }
}

#[tokio::test]
async fn s_34_a_body_of_another_length_than_announced_is_no_request() {
    let (scene, tls) =
        Scene::over_tls_by(|settings| settings.with(ROUTES).server("buffer_mib = 0")).await;
    for (length, body) in [(&b"5"[..], &b"abc"[..]), (b"2", b"abcdef")] {
        let address = scene.gateway.address();
        let mut connection = H2::connect(address, "localhost", tls.client(&["h2"])).await;
        let fields: &[(&[u8], &[u8])] = &[(b":method", b"POST"), (b"content-length", length)];
        connection.head(1, &h2_fields(fields), true).await;
        connection.body(1, body).await;
        assert_eq!(connection.outcome(1).await, Outcome::Refused);
        // The app may get the head of the request, but never a complete body.
        scene.app.wait_until_unconnected().await;
        let ended = |request: &Recorded| request.complete;
        assert!(!scene.app.requests().iter().any(ended), "{body:?}");
    }
    let mut connection =
        H2::connect(scene.gateway.address(), "localhost", tls.client(&["h2"])).await;
    // A frame that a client must not send, on a stream that was never opened.
    connection.bytes(&[0, 0, 1, 0, 0, 0, 0, 0, 9, b'x']).await;
    assert_eq!(connection.outcome(9).await, Outcome::Refused);
}

#[tokio::test]
async fn s_35_cookie_crumbs_arrive_as_one_field() {
    let (scene, tls) = Scene::over_tls().await;
    let address = scene.gateway.address();
    let mut connection = H2::connect(address, "localhost", tls.client(&["h2"])).await;
    let crumbs: &[(&[u8], &[u8])] = &[
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"cookie", b"c=3"),
    ];
    connection.head(1, &h2_fields(crumbs), false).await;
    assert_eq!(connection.outcome(1).await, Outcome::Status(200));
    assert_eq!(
        scene.app.last().head.value("cookie").as_deref(),
        Some("a=1; b=2; c=3")
    );
}

#[tokio::test]
async fn response_fields_that_do_not_repeat_stay_out_of_the_hpack_table() {
    let (scene, tls) = Scene::over_tls().await;
    let address = scene.gateway.address();
    for (name, remembered) in [("x-csrf-token", false), ("vary", true)] {
        let fields = [
            ("date", "Thu, 26 Nov 2026 20:00:00 GMT"),
            (name, "accept-language, cookie"),
        ];
        scene
            .app
            .answer_by(move |_| Answer::with(200, &fields, "seen"));
        let mut connection = H2::connect(address, "localhost", tls.client(&["h2"])).await;
        let mut lengths = Vec::new();
        for stream in [1, 3] {
            connection.head(stream, &h2_fields(&[]), false).await;
            lengths.push(connection.block(stream).await.unwrap().len());
        }
        // An indexed field takes one byte. The first block may begin with a table size update.
        let shorter = lengths[0].saturating_sub(lengths[1]) > 8;
        assert_eq!(shorter, remembered, "{name}: {lengths:?}");
    }
}

#[tokio::test]
async fn s_38_connect_is_refused_but_for_websockets() {
    let (scene, tls) = Scene::over_tls().await;
    let address = scene.gateway.address();
    for protocol in [&b"connect-udp"[..], b"connect-ip", b"tcp", b"h2c", b""] {
        let mut connection = H2::connect(address, "localhost", tls.client(&["h2"])).await;
        let fields: &[(&[u8], &[u8])] = &[(b":method", b"CONNECT"), (b":protocol", protocol)];
        connection.head(1, &h2_fields(fields), true).await;
        let outcome = connection.outcome(1).await;
        let refused = matches!(outcome, Outcome::Refused | Outcome::Status(400..=599));
        assert!(refused, "{protocol:?}: {outcome:?}");
    }
    let mut connection = H2::connect(address, "localhost", tls.client(&["h2"])).await;
    let plain: &[(&[u8], &[u8])] = &[(b":method", b"CONNECT"), (b":authority", b"localhost")];
    connection.head(1, plain, true).await;
    let outcome = connection.outcome(1).await;
    let refused = matches!(outcome, Outcome::Refused | Outcome::Status(400..=599));
    assert!(refused, "{outcome:?}");
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn s_37_a_preface_of_http_2_inside_http_1_is_no_http_2() {
    let (scene, tls) = Scene::over_tls().await;
    let address = scene.gateway.address();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut raw = Raw::connect_tls(address, "localhost", tls.client(&["http/1.1"])).await;
    raw.send(preface).await;
    raw.closed().await;
    assert!(raw.seen().is_empty() || raw.seen().starts_with(b"HTTP/1.1 4"));
    let mut raw = Raw::connect_tls(address, "localhost", tls.client(&["http/1.1"])).await;
    let head = format!(
        "POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        preface.len()
    );
    raw.send(head).await;
    raw.send(preface).await;
    assert_eq!(raw.response("POST").await.unwrap().status(), 200);
    assert_eq!(scene.app.last().body, preface);
}

/// Sends a POST request, whose head and trailers are these blocks of fields.
async fn send_trailed(connection: &mut H2, stream: u32, head: &[u8], trailers: &[u8]) {
    connection
        .bytes(&frame(HEADERS, END_HEADERS, stream, head))
        .await;
    connection.data(stream, b"abc").await;
    connection
        .bytes(&frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers))
        .await;
}

/// The head of a POST request that announces the trailer `x-sum`. The fields of the block `indexed`
/// are the last fields of the head.
fn trailed_head(indexed: &[u8]) -> Vec<u8> {
    let fields = h2_fields(&[(b":method", b"POST")]);
    let announced: &[(&[u8], &[u8])] = &[(b"trailer", b"x-sum, path"), (b"te", b"trailers")];
    // The pseudo-field `:path` is the first entry of the field table.
    let [others @ .., path] = &*fields else {
        unreachable!("a head has fields");
    };
    let path = indexed_literal(path.0, path.1);
    [
        literals(others),
        path,
        literals(announced),
        indexed.to_vec(),
    ]
    .concat()
}

/// Trailers with one pseudo-field, which is the first or the last field.
fn pseudo_trailers() -> Vec<Vec<u8>> {
    // The index of an entry of the table (RFC 7541 section 2.3.3): the head has added `:path`, and
    // then `x-sum`.
    const PATH: u8 = 0xbf;
    let sum = literals(&[(b"x-sum", b"1")]);
    // `:path` with Huffman coding.
    let mut huffman = vec![0x10, 0x84, 0xb9, 0x58, 0xd3, 0x3f];
    huffman.extend(b"\x06/admin");
    // A literal whose name is an entry of the static table.
    let named = [&[4, 6][..], b"/admin"].concat();
    let mut pseudo = vec![vec![PATH], vec![0x84], huffman, named];
    for (name, value) in [
        (&b":path"[..], &b"/admin"[..]),
        (b":authority", b"evil.example"),
        (b":method", b"PUT"),
        (b":scheme", b"http"),
        (b":status", b"200"),
        (b":protocol", b"websocket"),
    ] {
        pseudo.push(literals(&[(name, value)]));
        pseudo.push(indexed_literal(name, value));
    }
    let first = pseudo.iter().map(|field| [&**field, &sum].concat());
    let last = pseudo.iter().map(|field| [&*sum, field].concat());
    let alone = pseudo.iter().take(4).cloned();
    let resized = alone
        .clone()
        .map(|field| [&LARGEST_TABLE, &*field].concat());
    first.chain(last).chain(alone).chain(resized).collect()
}

/// An update of the size of the field table to its default (RFC 7541 section 6.3).
const LARGEST_TABLE: [u8; 3] = [0x3f, 0xe1, 0x1f];

#[tokio::test]
async fn s_26_trailers_with_a_pseudo_field_are_refused_and_other_streams_continue() {
    let (head, sum) = (trailed_head(&indexed_literal(b"x-sum", b"1")), [0xbe]);
    // The body is forwarded while it arrives, or it is first buffered.
    for buffer in ["buffer_mib = 0", ""] {
        let (scene, tls) =
            Scene::over_tls_by(|settings| settings.with(ROUTES).server(buffer)).await;
        let connect = || H2::connect(scene.gateway.address(), "localhost", tls.client(&["h2"]));
        let mut connection = connect().await;
        connection
            .bytes(&frame(HEADERS, END_HEADERS, 1, &trailed_head(b"")))
            .await;
        let mut stream = 1;
        let mut good = 0;
        for trailers in pseudo_trailers() {
            stream += 2;
            send_trailed(&mut connection, stream, &head, &trailers).await;
            let outcome = connection.outcome(stream).await;
            assert_eq!(outcome, Outcome::Refused, "{trailers:x?}");
            // The next request uses the field table that these trailers may have changed.
            stream += 2;
            good += 1;
            send_trailed(&mut connection, stream, &head, &sum).await;
            let outcome = connection.outcome(stream).await;
            assert_eq!(outcome, Outcome::Status(200), "{trailers:x?}");
            assert_eq!(scene.app.last().trailers, ["x-sum: 1"], "{trailers:x?}");
        }
        connection.body(1, b"abc").await;
        assert_eq!(connection.outcome(1).await, Outcome::Status(200));
        let requests = scene.app.requests();
        let complete = requests.iter().filter(|request| request.complete);
        assert_eq!(complete.count(), good + 1);

        // The library refuses an unknown pseudo-field with the whole connection.
        let mut connection = connect().await;
        let unknown = literals(&[(b":extra", b"1")]);
        send_trailed(&mut connection, 1, &head, &unknown).await;
        assert_eq!(connection.outcome(1).await, Outcome::Refused);
    }
}

/// A frame of a trailer block: its type, its flags and its payload.
type Part = (u8, u8, Vec<u8>);

/// Trailers in each form of a frame. The number is the length of the value of `x-sum`.
fn forms_of_trailers() -> Vec<(Vec<Part>, usize)> {
    const PADDED: u8 = 8;
    const PRIORITY: u8 = 32;
    const ALL: u8 = END_HEADERS | END_STREAM;
    let sum = literals(&[(b"x-sum", b"1")]);
    let resized = [&LARGEST_TABLE, &*sum].concat();
    let padded = [&[3, 0, 0, 0, 0, 16], &*sum, &[0; 3]].concat();
    let padded_begin = [&[1], &sum[..4], &[0]].concat();
    let forbidden = literals(&[(b"authorization", b"Bearer x"), (b"x-sum", b"1")]);
    // The first frame has the largest size.
    let huge = literals(&[(b"x-sum", &b"1".repeat(20_000))]);
    let (begin, end) = huge.split_at(16_384);
    let in_pieces = vec![
        (HEADERS, END_STREAM, sum[..4].to_vec()),
        (CONTINUATION, 0, sum[4..6].to_vec()),
        (CONTINUATION, END_HEADERS, sum[6..].to_vec()),
    ];
    let padded_piece = vec![
        (HEADERS, END_STREAM | PADDED, padded_begin),
        (CONTINUATION, END_HEADERS, sum[4..].to_vec()),
    ];
    let large_pieces = vec![
        (HEADERS, END_STREAM, begin.to_vec()),
        (CONTINUATION, END_HEADERS, end.to_vec()),
    ];
    vec![
        (vec![(HEADERS, ALL, sum)], 1),
        (vec![(HEADERS, ALL, resized)], 1),
        (vec![(HEADERS, ALL | PADDED | PRIORITY, padded)], 1),
        (in_pieces, 1),
        (padded_piece, 1),
        (vec![(HEADERS, ALL, forbidden)], 1),
        (large_pieces, 20_000),
    ]
}

#[tokio::test]
async fn s_26_trailers_in_each_form_of_a_frame_are_forwarded_as_they_came() {
    let (scene, tls) = Scene::over_tls().await;
    let address = scene.gateway.address();
    let mut connection = H2::connect(address, "localhost", tls.client(&["h2"])).await;
    let mut stream = 1;
    for (number, (parts, length)) in forms_of_trailers().into_iter().enumerate() {
        let head = frame(HEADERS, END_HEADERS, stream, &trailed_head(b""));
        connection.bytes(&head).await;
        connection.data(stream, b"abc").await;
        for (kind, flags, payload) in parts {
            let part = frame(kind, flags, stream, &payload);
            assert!(connection.bytes(&part).await, "{number}");
        }
        let outcome = connection.outcome(stream).await;
        assert_eq!(outcome, Outcome::Status(200), "{number}");
        let (seen, value) = (scene.app.last(), "1".repeat(length));
        assert_eq!(seen.trailers, [format!("x-sum: {value}")], "{number}");
        let body = (&*seen.body, seen.complete);
        assert_eq!(body, (&b"abc"[..], true), "{number}");
        stream += 2;
    }
}

#[tokio::test]
async fn d_18_a_stream_beyond_the_limit_is_refused_and_the_others_are_answered() {
    let (scene, tls) = Scene::over_tls().await;
    let gate = Arc::new(Notify::new());
    let held = Answer::ok("seen").held_by(&gate);
    scene.app.answer_by(move |_| held.clone());
    let address = scene.gateway.address();
    let config = tls.client(&["h2"]);
    let mut connection = H2::connect_without_table(address, "localhost", config).await;
    let before = scene.app.count();
    for number in 0..100 {
        connection
            .head(number * 2 + 1, &h2_fields(&[]), false)
            .await;
    }
    scene
        .app
        .wait_until(|requests| requests.len() == before + 100)
        .await;
    connection.head(201, &h2_fields(&[]), false).await;
    assert_eq!(connection.outcome(201).await, Outcome::Refused);
    let open: Vec<_> = (0..100).map(|number| number * 2 + 1).collect();
    let answering = async {
        loop {
            gate.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    let bodies = tokio::select! {
        bodies = connection.bodies(&open) => bodies,
        () = answering => unreachable!("the loop never ends"),
    };
    assert!(bodies.iter().all(|body| *body == (b"seen".to_vec(), true)));
    assert_eq!(scene.app.count(), before + 100);
}

#[tokio::test]
async fn d_19_slow_bodies_on_a_hundred_streams_are_cut_off() {
    let server = "body_window_secs = 1\nbody_rate = 500";
    let (scene, tls) = Scene::over_tls_by(|settings| settings.with(ROUTES).server(server)).await;
    let address = scene.gateway.address();
    let config = tls.client(&["h2"]);
    let mut connection = H2::connect_without_table(address, "localhost", config).await;
    let fields: &[(&[u8], &[u8])] = &[(b":method", b"POST"), (b"content-length", b"100000")];
    let streams: Vec<_> = (0..100).map(|number| number * 2 + 1).collect();
    for stream in &streams {
        connection.head(*stream, &h2_fields(fields), true).await;
        connection.data(*stream, b"a").await;
    }
    let statuses = connection.statuses(&streams).await;
    assert_eq!(statuses, vec![408; 100]);
    assert_eq!(scene.app.count(), 0);
    // Each stream ends at most two seconds after its answer. The connection can then serve other
    // requests.
    assert_eq!(connection.outcome(1).await, Outcome::Refused);
    connection.head(201, &h2_fields(&[]), false).await;
    assert_eq!(connection.outcome(201).await, Outcome::Status(200));
}
