use super::*;

const ORIGIN: &str = "https://gw.test";
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const TIMEOUT: Duration = Duration::from_mins(10);

fn hint(return_to: &str) -> Hint {
    let return_to = ReturnTo::parse(return_to, OWN_PREFIX).unwrap();
    Hint {
        provider: "main".into(),
        registration: Some([9; 16]),
        return_to,
        issued_at: NOW,
        round: 2,
        anew: false,
        before: Some(SessionKey::from_bytes([7; 16])),
    }
}

fn sent(keys: &KeyRing) -> (PendingLogin, Sent) {
    let pending = PendingLogin::new(hint("/page?x=1")).unwrap();
    let sent = pending.send(keys, ORIGIN).unwrap();
    (pending, sent)
}

fn secret(sent: &Sent) -> &[u8] {
    sent.browser_secret.expose().as_bytes()
}

#[test]
fn a_login_comes_back_as_it_was_sent() {
    let keys = KeyRing::random().unwrap();
    let (pending, sent) = sent(&keys);
    let returned = ReturnedState::open(&sent.state, &keys, ORIGIN).unwrap();
    assert_eq!(returned.hint(), pending.hint());
    let verified = returned
        .verify(&keys, Some(secret(&sent)), NOW, TIMEOUT)
        .unwrap();
    assert_eq!(
        verified.code_verifier().expose(),
        pending.code_verifier().expose()
    );
    assert_eq!(verified.hint().round, 2);
}

#[test]
fn the_cookie_is_under_80_bytes_and_the_state_short() {
    let keys = KeyRing::random().unwrap();
    let (_, sent) = sent(&keys);
    let pair = format!("{}={}", sent.tab.cookie(), sent.browser_secret.expose());
    assert!(pair.len() < 80, "{}", pair.len());
    let long = PendingLogin::new(hint(&format!("/{}", "a".repeat(1000)))).unwrap();
    let state = long.send(&keys, ORIGIN).unwrap().state;
    assert!(state.len() < 2000, "{}", state.len());
}

#[test]
fn the_challenge_is_the_hash_of_a_verifier_of_43_characters() {
    let (pending, _) = sent(&KeyRing::random().unwrap());
    assert_eq!(pending.code_verifier().expose().len(), 43);
    assert_eq!(pending.code_challenge().len(), 43);
    assert_ne!(pending.code_challenge(), *pending.code_verifier().expose());
}

#[test]
fn a_02_a_state_with_another_browsers_secret_is_refused() {
    let keys = KeyRing::random().unwrap();
    let ((_, mine), (_, other)) = (sent(&keys), sent(&keys));
    let returned = ReturnedState::open(&mine.state, &keys, ORIGIN).unwrap();
    let verify = |secret| returned.verify(&keys, secret, NOW, TIMEOUT).unwrap_err();
    assert_eq!(verify(Some(secret(&other))), StateError::OtherBrowser);
    assert_eq!(verify(Some(b"")), StateError::OtherBrowser);
    assert_eq!(verify(None), StateError::NoCookie);
}

#[test]
fn a_03_a_changed_or_cut_state_is_refused_at_every_byte() {
    let keys = KeyRing::random().unwrap();
    let (_, sent) = sent(&keys);
    let verify = |state: &str| {
        ReturnedState::open(state, &keys, ORIGIN)?.verify(&keys, Some(secret(&sent)), NOW, TIMEOUT)
    };
    assert!(verify(&sent.state).is_ok());
    for position in 0..sent.state.len() {
        let mut changed = sent.state.clone().into_bytes();
        changed[position] = if changed[position] == b'A' {
            b'B'
        } else {
            b'A'
        };
        assert!(
            verify(std::str::from_utf8(&changed).unwrap()).is_err(),
            "byte {position}"
        );
        assert!(
            verify(sent.state.get(..position).unwrap()).is_err(),
            "cut at {position}"
        );
    }
    for bad in [
        "",
        ".",
        "..",
        &"a".repeat(100_000),
        &format!("{}=", sent.state),
    ] {
        assert!(verify(bad).is_err());
    }
    assert!(verify(&sent.state.to_uppercase()).is_err());
}

#[test]
fn a_03_parts_of_two_states_do_not_mix() {
    let keys = KeyRing::random().unwrap();
    let ((_, one), (_, other)) = (sent(&keys), sent(&keys));
    let part = |sent: &Sent, n: usize| sent.state.split('.').nth(n).unwrap().to_owned();
    let mixed = format!("{}.{}.{}", part(&one, 0), part(&one, 1), part(&other, 2));
    let returned = ReturnedState::open(&mixed, &keys, ORIGIN).unwrap();
    for sent in [&one, &other] {
        let refused = returned
            .verify(&keys, Some(secret(sent)), NOW, TIMEOUT)
            .unwrap_err();
        assert_eq!(refused, StateError::OtherBrowser);
    }
}

#[test]
fn a_06_a_state_is_over_after_the_timeout() {
    let keys = KeyRing::random().unwrap();
    let (_, sent) = sent(&keys);
    let returned = ReturnedState::open(&sent.state, &keys, ORIGIN).unwrap();
    let at = |now| {
        returned
            .verify(&keys, Some(secret(&sent)), now, TIMEOUT)
            .map(|_| ())
    };
    assert_eq!(at(NOW.plus(Duration::from_secs(599))), Ok(()));
    assert_eq!(at(NOW.plus(TIMEOUT)), Err(StateError::Expired));
}

#[test]
fn a_39_a_state_of_another_origin_is_foreign() {
    let keys = KeyRing::random().unwrap();
    let (_, sent) = sent(&keys);
    let other = ReturnedState::open(&sent.state, &keys, "https://other.test");
    assert_eq!(other.unwrap_err(), StateError::Foreign);
}

#[test]
fn x_16_a_login_comes_back_whatever_year_it_is() {
    let keys = KeyRing::random().unwrap();
    for seconds in [0, (1 << 31) - 1, (1 << 32) - 1, 1 << 33_u64] {
        let issued_at = Timestamp::from_millis(seconds * 1000);
        let pending = PendingLogin::new(Hint {
            issued_at,
            ..hint("/")
        });
        let sent = pending.unwrap().send(&keys, ORIGIN).unwrap();
        let returned = ReturnedState::open(&sent.state, &keys, ORIGIN).unwrap();
        let at = |now| {
            returned
                .verify(&keys, Some(secret(&sent)), now, TIMEOUT)
                .map(|_| ())
        };
        assert_eq!(
            at(issued_at.plus(Duration::from_secs(599))),
            Ok(()),
            "{seconds}"
        );
        assert_eq!(
            at(issued_at.plus(TIMEOUT)),
            Err(StateError::Expired),
            "{seconds}"
        );
        // A clock that was set back, and one that was at 1970 when the login began.
        assert_eq!(at(Timestamp::default()), Ok(()), "{seconds}");
        assert_eq!(at(Timestamp::MAX), Err(StateError::Expired), "{seconds}");
    }
}
