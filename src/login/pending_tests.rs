use super::*;

const ORIGIN: &str = "https://gw.test";
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const TIMEOUT: Duration = Duration::from_mins(10);

fn own() -> OwnPaths {
    OwnPaths::try_from("/oauth2/".to_owned()).unwrap()
}

fn details(return_to: &str) -> LoginDetails {
    let return_to = ReturnTo::parse(return_to, &own()).unwrap();
    LoginDetails {
        provider: "main".into(),
        registration: Some([9; 16]),
        return_to,
        issued_at: NOW,
        round: 2,
        prompt: Prompt::SelectAccount,
        remember: true,
        waiting: None,
    }
}

fn sealed(keys: &KeyRing) -> (PendingLogin, SealedLogin) {
    let pending = PendingLogin::new(details("/page?x=1")).unwrap();
    let sealed = pending.seal(keys, ORIGIN).unwrap();
    (pending, sealed)
}

fn secret(sealed: &SealedLogin) -> &[u8] {
    sealed.browser_secret.expose().as_bytes()
}

#[test]
fn a_returned_state_opens_to_the_login_that_was_sealed() {
    let keys = KeyRing::random().unwrap();
    let (pending, sealed) = sealed(&keys);
    let returned = ReturnedState::open(&sealed.state, (&keys, &own()), ORIGIN).unwrap();
    assert_eq!(returned.details(), pending.details());
    let verified = returned
        .verify(&keys, Some(secret(&sealed)), NOW, TIMEOUT)
        .unwrap();
    assert_eq!(
        verified.code_verifier().expose(),
        pending.code_verifier().expose()
    );
    assert_eq!(verified.details().round, 2);
}

#[test]
fn the_cookie_is_under_80_bytes_and_the_state_under_2000() {
    let keys = KeyRing::random().unwrap();
    let (_, sealed) = sealed(&keys);
    let pair = format!("{}={}", sealed.tab.cookie(), sealed.browser_secret.expose());
    assert!(pair.len() < 80, "{}", pair.len());
    let long = PendingLogin::new(details(&format!("/{}", "a".repeat(1000)))).unwrap();
    let state = long.seal(&keys, ORIGIN).unwrap().state;
    assert!(state.len() < 2000, "{}", state.len());
}

#[test]
fn the_challenge_is_the_hash_of_a_verifier_of_43_characters() {
    let (pending, _) = sealed(&KeyRing::random().unwrap());
    assert_eq!(pending.code_verifier().expose().len(), 43);
    assert_eq!(pending.code_challenge().len(), 43);
    assert_ne!(pending.code_challenge(), *pending.code_verifier().expose());
}

#[test]
fn a_02_a_state_with_another_browsers_secret_is_refused() {
    let keys = KeyRing::random().unwrap();
    let ((_, mine), (_, other)) = (sealed(&keys), sealed(&keys));
    let returned = ReturnedState::open(&mine.state, (&keys, &own()), ORIGIN).unwrap();
    let verify = |secret| returned.verify(&keys, secret, NOW, TIMEOUT).unwrap_err();
    assert_eq!(verify(Some(secret(&other))), StateError::OtherBrowser);
    assert_eq!(verify(Some(b"")), StateError::OtherBrowser);
    assert_eq!(verify(None), StateError::NoCookie);
}

#[test]
fn a_03_a_changed_or_cut_state_is_refused_at_every_byte() {
    let keys = KeyRing::random().unwrap();
    let (_, sealed) = sealed(&keys);
    let verify = |state: &str| {
        ReturnedState::open(state, (&keys, &own()), ORIGIN)?.verify(
            &keys,
            Some(secret(&sealed)),
            NOW,
            TIMEOUT,
        )
    };
    assert!(verify(&sealed.state).is_ok());
    for position in 0..sealed.state.len() {
        let mut changed = sealed.state.clone().into_bytes();
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
            verify(sealed.state.get(..position).unwrap()).is_err(),
            "cut at {position}"
        );
    }
    for bad in [
        "",
        ".",
        "..",
        &"a".repeat(100_000),
        &format!("{}=", sealed.state),
    ] {
        assert!(verify(bad).is_err());
    }
    assert!(verify(&sealed.state.to_uppercase()).is_err());
}

#[test]
fn a_03_parts_of_two_states_do_not_mix() {
    let keys = KeyRing::random().unwrap();
    let ((_, one), (_, other)) = (sealed(&keys), sealed(&keys));
    let part = |sealed: &SealedLogin, n: usize| sealed.state.split('.').nth(n).unwrap().to_owned();
    let mixed = format!("{}.{}.{}", part(&one, 0), part(&one, 1), part(&other, 2));
    let returned = ReturnedState::open(&mixed, (&keys, &own()), ORIGIN).unwrap();
    for sealed in [&one, &other] {
        let refused = returned
            .verify(&keys, Some(secret(sealed)), NOW, TIMEOUT)
            .unwrap_err();
        assert_eq!(refused, StateError::OtherBrowser);
    }
}

#[test]
fn a_06_a_state_is_over_after_the_timeout() {
    let keys = KeyRing::random().unwrap();
    let (_, sealed) = sealed(&keys);
    let returned = ReturnedState::open(&sealed.state, (&keys, &own()), ORIGIN).unwrap();
    let at = |now| {
        returned
            .verify(&keys, Some(secret(&sealed)), now, TIMEOUT)
            .map(|_| ())
    };
    assert_eq!(at(NOW.plus(Duration::from_secs(599))), Ok(()));
    assert_eq!(at(NOW.plus(TIMEOUT)), Err(StateError::Expired));
}

#[test]
fn a_39_a_state_of_another_origin_is_foreign() {
    let keys = KeyRing::random().unwrap();
    let (_, sealed) = sealed(&keys);
    let other = ReturnedState::open(&sealed.state, (&keys, &own()), "https://other.test");
    assert_eq!(other.unwrap_err(), StateError::Foreign);
}

#[test]
fn x_16_a_login_comes_back_whatever_year_it_is() {
    let keys = KeyRing::random().unwrap();
    for seconds in [0, (1 << 31) - 1, (1 << 32) - 1, 1 << 33_u64] {
        let issued_at = Timestamp::from_millis(seconds * 1000);
        let pending = PendingLogin::new(LoginDetails {
            issued_at,
            ..details("/")
        });
        let sealed = pending.unwrap().seal(&keys, ORIGIN).unwrap();
        let returned = ReturnedState::open(&sealed.state, (&keys, &own()), ORIGIN).unwrap();
        let at = |now| {
            returned
                .verify(&keys, Some(secret(&sealed)), now, TIMEOUT)
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
        // A login stays valid if the clock is set back after the start of the login, even to the
        // year 1970.
        assert_eq!(at(Timestamp::default()), Ok(()), "{seconds}");
        assert_eq!(at(Timestamp::MAX), Err(StateError::Expired), "{seconds}");
    }
}

#[test]
fn only_the_name_of_a_tab_cookie_gives_a_tab() {
    let (_, sealed) = sealed(&KeyRing::random().unwrap());
    let text = sealed.state.split('.').next().unwrap();
    let name = sealed.tab.cookie();
    assert_eq!(name, format!("__Host-sidegate-{text}"));
    assert_eq!(Tab::of_cookie(name.as_bytes()), Some(sealed.tab));
    let longer = format!("{name}0");
    let shorter = name.get(..name.len() - 1).unwrap();
    for other in [
        "__Host-sidegate",
        "__Host-sidegate-",
        "__Host-sidegate-0123456789abcdeg",
        "__Host-sidegate-0123456789abcd-f",
        "__Host-sidegate-0123456789ABCDEF",
        "__host-sidegate-0123456789abcdef",
        "0123456789abcdef",
        &longer,
        shorter,
    ] {
        assert_eq!(Tab::of_cookie(other.as_bytes()), None, "{other}");
    }
    assert_eq!(Tab::of_cookie(b"__Host-sidegate-0123456789abcde\xff"), None);
}

#[test]
fn each_login_has_its_own_nonce_and_the_verified_state_has_the_same_nonce() {
    let keys = KeyRing::random().unwrap();
    let ((one, out), (other, _)) = (sealed(&keys), sealed(&keys));
    assert_eq!(one.nonce().len(), 43);
    assert_ne!(one.nonce(), other.nonce());
    // The browser sees the nonce, so the nonce must not reveal the code verifier.
    assert_ne!(one.nonce(), *one.code_verifier().expose());
    let verified = ReturnedState::open(&out.state, (&keys, &own()), ORIGIN)
        .and_then(|state| state.verify(&keys, Some(secret(&out)), NOW, TIMEOUT));
    assert_eq!(verified.unwrap().nonce(), one.nonce());
}

#[test]
fn two_states_have_different_fingerprints() {
    let keys = KeyRing::random().unwrap();
    let ((_, one), (_, other)) = (sealed(&keys), sealed(&keys));
    let fingerprint = |sealed: &SealedLogin| {
        ReturnedState::open(&sealed.state, (&keys, &own()), ORIGIN).map(|state| state.fingerprint())
    };
    assert_eq!(fingerprint(&one).unwrap(), fingerprint(&one).unwrap());
    assert_ne!(fingerprint(&one).unwrap(), fingerprint(&other).unwrap());
}

#[test]
fn a_registration_tag_is_the_first_half_of_a_fingerprint() {
    let fingerprint = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let first_half = std::array::from_fn(|at| u8::try_from(at).unwrap());
    assert_eq!(registration_tag(&fingerprint), first_half);
}

#[test]
fn verifier_nonce_and_challenge_match_the_values_of_another_program() {
    let pending = PendingLogin {
        details: details("/"),
        seed: Secret::new(std::array::from_fn(|at| u8::try_from(at).unwrap())),
    };
    // The expected values are computed with Python's hmac and hashlib. If a new version of the
    // gateway computed different values than the old version, every login that is pending during
    // the update would fail.
    let verifier = "kHCmA1HljaE5RbrTJDbdh96Nn9l1IpK18XLRsrC_xKw";
    assert_eq!(pending.code_verifier().expose(), verifier);
    assert_eq!(
        pending.code_challenge(),
        "E1gXbYyaSRJ2jqIVs77Gt6vkeiTu03JtWHIjhm2gFyU"
    );
    assert_eq!(
        pending.nonce(),
        "LWvcU5kBMuzpyIuTOIA7-8E5qtsDcTjRex3ATDRM34o"
    );
}

#[test]
fn a_browser_secret_is_16_random_bytes() {
    let keys = KeyRing::random().unwrap();
    let ((_, one), (_, other)) = (sealed(&keys), sealed(&keys));
    assert_eq!(URL_SAFE_NO_PAD.decode(secret(&one)).unwrap().len(), 16);
    assert_ne!(secret(&one), secret(&other));
}

#[test]
fn the_name_of_a_tab_contains_its_time() {
    let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
    let made = 1_800_000_000;
    let tab = Tab::random(at(made)).unwrap();
    assert_eq!(tab.age(at(made)), Duration::ZERO);
    assert_eq!(tab.age(at(made + 60)), Duration::from_mins(1));
    assert_eq!(tab.age(at(made - 60)), Duration::ZERO);
    // In 2106, the short number of seconds begins again at zero.
    let tab = Tab::random(at((1 << 32) - 10)).unwrap();
    assert_eq!(tab.age(at((1 << 32) + 10)), Duration::from_secs(20));
}
