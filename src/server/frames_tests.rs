use http::HeaderValue;

use super::*;

/// Flags that the gateway does not know.
const UNKNOWN: u8 = 0x40;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// What the library reads, if the client sends `pieces`.
fn read<'a>(
    frames: &mut Frames,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, TooManySettings> {
    let (mut waiting, mut seen) = (Vec::new(), Vec::new());
    for piece in pieces {
        waiting.extend_from_slice(piece);
        loop {
            let passed = frames.pass(&waiting)?;
            seen.extend(waiting.drain(..passed));
            if passed > 0 {
                continue;
            }
            let Some(replacement) = frames.replace(&waiting) else {
                break;
            };
            waiting.drain(..replacement.taken);
            seen.extend(replacement.bytes);
        }
        assert!(waiting.len() < HEAD + 6, "only a head waits");
    }
    Ok(seen)
}

/// What the library reads after the preface, if the client sends these frames. The result is the
/// same for each size of the pieces.
fn seen(frames: &[Vec<u8>]) -> Vec<u8> {
    let bytes = [PREFACE, &frames.concat()].concat();
    let whole = read(&mut Frames::default(), [&*bytes].into_iter()).unwrap();
    for size in 1..bytes.len() {
        let pieces = read(&mut Frames::default(), bytes.chunks(size));
        assert_eq!(pieces.unwrap(), whole, "{size}");
    }
    whole.strip_prefix(PREFACE).unwrap().to_vec()
}

/// The request head of the stream 5.
fn opened() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 5, b"head")
}

/// The two frames that the library gets in place of trailers on the stream 5.
fn marked(flags: (u8, u8), block: &[u8]) -> Vec<u8> {
    [
        frame(HEADERS, flags.0, 5, &[MARK]),
        frame(CONTINUATION, flags.1, 5, block),
    ]
    .concat()
}

#[test]
fn d_13_settings_are_counted_in_pieces_of_every_size() {
    let bytes = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, b"123456"),
        // A payload that looks like SETTINGS.
        frame(0, 0, 0, &frame(SETTINGS, 0, 0, b"").repeat(7)),
        frame(SETTINGS, ACK, 0, b""),
        frame(6, 0, 0, b"12345678"),
        frame(SETTINGS, 0, 0, b""),
        frame(HEADERS, 5, 1, &[4; 300]),
        frame(SETTINGS, 0, 0, &[0; 60]),
    ]
    .concat();
    for size in 1..=bytes.len() {
        let mut frames = Frames::default();
        assert_eq!(read(&mut frames, bytes.chunks(size)).unwrap(), bytes);
        assert_eq!(frames.changes, 3, "{size}");
    }
}

#[test]
fn d_07_heads_are_counted_and_large_heads_too() {
    let part = |kind, flags, stream, bytes| frame(kind, flags, stream, &vec![0; bytes]);
    let bytes = [
        PREFACE.to_vec(),
        part(HEADERS, END_HEADERS, 1, LARGE),
        part(HEADERS, 0, 3, LARGE),
        part(CONTINUATION, 0, 3, 0),
        part(CONTINUATION, END_HEADERS, 3, 1),
        // Bytes of a body.
        part(0, END_HEADERS, 3, LARGE + 1),
        part(HEADERS, END_HEADERS, 7, 1),
        // Trailers begin no request.
        part(HEADERS, END_HEADERS, 3, LARGE + 1),
        part(HEADERS, 0, 1, LARGE),
        part(CONTINUATION, END_HEADERS, 1, 1),
    ]
    .concat();
    let mut frames = Frames::default();
    assert!(read(&mut frames, [&*bytes].into_iter()).is_ok());
    assert_eq!(frames.take_heads(), Heads { all: 3, large: 1 });
    assert_eq!(frames.take_heads(), Heads::default());
}

#[test]
fn d_13_a_client_that_changes_its_settings_too_often_is_refused() {
    let mut frames = Frames::default();
    let mut send = |bytes: &[u8]| read(&mut frames, [bytes].into_iter()).is_ok();
    assert!(send(PREFACE));
    for _ in 0..CHANGES {
        assert!(send(&frame(SETTINGS, 0, 0, b"")));
        assert!(send(&frame(SETTINGS, ACK, 0, b"")));
    }
    assert!(!send(&frame(SETTINGS, 0, 0, b"")));
}

#[test]
fn s_26_only_trailers_get_the_mark() {
    let before = [
        opened(),
        frame(0, 0, 5, b"body"),
        // A body that looks like trailers.
        frame(0, 0, 5, &frame(HEADERS, 5, 5, b"x")),
        frame(HEADERS, 0, 7, b"another "),
        frame(CONTINUATION, END_HEADERS, 7, b"head"),
    ];
    let trailers = frame(HEADERS, END_STREAM | END_HEADERS, 5, b"fields");
    let after = [
        frame(HEADERS, END_STREAM | END_HEADERS, 9, b"third head"),
        frame(0, END_STREAM, 7, b"end"),
    ];
    let sent = [&before[..], &[trailers], &after].concat();
    let flags = (END_STREAM, END_HEADERS);
    let expected = [&before[..], &[marked(flags, b"fields")], &after].concat();
    assert_eq!(seen(&sent), expected.concat());
}

#[test]
fn s_26_each_form_of_trailers_gets_the_mark() {
    let all = END_STREAM | END_HEADERS;
    // The bit before the id of the other stream is not a part of the id.
    let priority = [0x80, 0, 0, 3, 16];
    let padded = [&[2][..], b"fields", &[0; 2]].concat();
    let both = [&[2][..], &priority, b"fields", &[0; 2]].concat();
    let only_padding = [&[4][..], &[0; 4]].concat();
    let ended = (END_STREAM, END_HEADERS);
    for (flags, payload, expected) in [
        (all | UNKNOWN, b"fields".to_vec(), marked(ended, b"fields")),
        (END_STREAM, b"f".to_vec(), marked((END_STREAM, 0), b"f")),
        (END_HEADERS, b"f".to_vec(), marked((0, END_HEADERS), b"f")),
        (all, Vec::new(), marked(ended, b"")),
        (all | PADDED, padded, marked(ended, b"fields")),
        (
            all | PRIORITY,
            [&priority[..], b"fields"].concat(),
            marked(ended, b"fields"),
        ),
        (all | PADDED | PRIORITY, both, marked(ended, b"fields")),
        (all | PADDED, only_padding, marked(ended, b"")),
    ] {
        let after = frame(SETTINGS, 0, 0, b"");
        let sent = [opened(), frame(HEADERS, flags, 5, &payload), after.clone()];
        let expected = [opened(), expected, after].concat();
        assert_eq!(seen(&sent), expected, "{flags:#x} {payload:?}");
    }
}

#[test]
fn s_26_trailers_that_the_library_refuses_without_reading_them_stay_unchanged() {
    let all = END_STREAM | END_HEADERS;
    for (flags, payload) in [
        // More padding than bytes.
        (all | PADDED, &[3, 0, 0][..]),
        (all | PADDED | PRIORITY, &[1, 0, 0, 0, 3, 16]),
        // Too short for the flags.
        (all | PADDED, &[]),
        (all | PRIORITY, &[0, 0, 0, 3]),
        // The stream depends on itself.
        (all | PRIORITY, &[0, 0, 0, 5, 16, b'x']),
        (all | PADDED | PRIORITY, &[1, 0x80, 0, 0, 5, 16, b'x', 0]),
    ] {
        let after = frame(HEADERS, all, 7, b"next");
        let sent = [opened(), frame(HEADERS, flags, 5, payload), after];
        assert_eq!(seen(&sent), sent.concat(), "{flags:#x} {payload:?}");
    }
}

#[test]
fn s_26_only_the_mark_is_removed_from_the_trailers() {
    let fields = |fields: &[(&'static str, &'static str)]| {
        let mut trailers = HeaderMap::new();
        for (name, value) in fields {
            trailers.append(*name, HeaderValue::from_static(value));
        }
        trailers
    };
    let (mark, sum, token) = (
        ("authorization", ""),
        ("x-sum", "1"),
        ("authorization", "a"),
    );
    for (seen, left) in [
        (fields(&[]), fields(&[])),
        (fields(&[mark]), fields(&[])),
        (fields(&[mark, sum]), fields(&[sum])),
        (fields(&[mark, sum, token]), fields(&[sum, token])),
        (fields(&[sum, token]), fields(&[sum, token])),
    ] {
        let mut trailers = seen.clone();
        remove_mark(&mut trailers);
        assert_eq!(trailers, left, "{seen:?}");
    }
}
