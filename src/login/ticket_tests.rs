use super::*;
use crate::session::{SessionId, StoreTag};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const TIMEOUT: Duration = Duration::from_mins(10);
const PAGE: &str = "/page?x=%22";

/// The login host, and two hosts that share its sessions.
struct Hosts {
    login: PublicUrl,
    app: PublicUrl,
    other: PublicUrl,
    served: PublicUrls,
    own: OwnPaths,
    keys: KeyRing,
}

impl Hosts {
    fn new() -> Self {
        let url = |text: &str| PublicUrl::try_from(text.to_owned()).unwrap();
        let served = r#"["https://login.test", "https://app.test", "https://other.test"]"#;
        Self {
            login: url("https://login.test"),
            app: url("https://app.test"),
            other: url("https://other.test"),
            served: serde_json::from_str(served).unwrap(),
            own: OwnPaths::try_from("/oauth2/".to_owned()).unwrap(),
            keys: KeyRing::random().unwrap(),
        }
    }

    fn at<'a>(&'a self, public_url: &'a PublicUrl) -> Opening<'a> {
        Opening {
            keys: &self.keys,
            own: &self.own,
            served: &self.served,
            public_url,
        }
    }

    fn page(&self) -> ReturnTo {
        ReturnTo::parse(PAGE, &self.own).unwrap()
    }

    /// A sealed request of `host`.
    fn request(&self, host: &PublicUrl) -> String {
        let (waiting, _secret) =
            WaitingTab::new(host, (1, Some(SessionKey::from_bytes([7; 16]))), NOW).unwrap();
        let request = TicketRequest {
            waiting,
            return_to: self.page(),
            providers: vec!["main".into(), "other".into()],
            prompt: Prompt::LoginWithMaxAge(300),
            remember: true,
            passed: vec![("login_hint".to_owned(), "\"ä".to_owned())],
            issued_at: NOW,
        };
        request.seal(&self.keys, &self.login).unwrap()
    }

    /// A sealed ticket for the host `app`, and the secret of its tab.
    fn ticket(&self) -> (String, SessionRef, Secret<String>) {
        let (waiting, secret) = WaitingTab::new(&self.app, (1, None), NOW).unwrap();
        let id = SessionId::random(StoreTag::random().unwrap()).unwrap();
        let session = SessionRef::from(&id);
        let ticket = Ticket::seal((&waiting, &self.page()), session, &self.keys, NOW);
        (ticket.unwrap(), session, secret)
    }
}

#[test]
fn a_request_opens_to_what_was_sealed() {
    let hosts = Hosts::new();
    let text = hosts.request(&hosts.app);
    let request = TicketRequest::open(&text, hosts.at(&hosts.login)).unwrap();
    assert_eq!(request.host(), &hosts.app);
    assert_eq!(request.return_to.as_str(), PAGE);
    let replaced = Some(SessionKey::from_bytes([7; 16]));
    assert_eq!(request.waiting.session, replaced);
    let chosen = request.at("other");
    assert_eq!(chosen.only_provider(), Some("other"));
    assert_eq!(
        (request.only_provider(), request.prompt),
        (None, Prompt::LoginWithMaxAge(300))
    );
    assert!(request.remember && chosen.remember);
    assert_eq!(
        request.passed,
        [("login_hint".to_owned(), "\"ä".to_owned())]
    );
    assert_eq!(
        (&request.waiting.host, request.waiting.round),
        (&hosts.app, 1)
    );
}

#[test]
fn a_46_a_request_is_valid_at_the_login_host_for_a_served_host_and_a_limited_time() {
    let hosts = Hosts::new();
    let text = hosts.request(&hosts.app);
    let refused = |text: &str, at: &PublicUrl, now| {
        let opened = TicketRequest::open(text, hosts.at(at));
        let checked = opened.and_then(|request| request.check_age(now, TIMEOUT));
        checked.unwrap_err()
    };
    assert_eq!(refused("", &hosts.login, NOW), StateError::Missing);
    assert_eq!(refused(&text, &hosts.app, NOW), StateError::Foreign);
    assert_eq!(
        refused(&text, &hosts.login, NOW.plus(TIMEOUT)),
        StateError::Expired
    );
    let evil = PublicUrl::try_from("https://evil.test".to_owned()).unwrap();
    let for_evil = hosts.request(&evil);
    assert_eq!(refused(&for_evil, &hosts.login, NOW), StateError::Foreign);
    let (ticket, ..) = hosts.ticket();
    assert_eq!(refused(&ticket, &hosts.login, NOW), StateError::Foreign);
    let long = "A".repeat(MAX_TEXT + 1);
    assert_eq!(refused(&long, &hosts.login, NOW), StateError::Foreign);
}

#[test]
fn a_41_a_ticket_is_valid_only_with_the_secret_of_its_tab() {
    let hosts = Hosts::new();
    let (text, session, secret) = hosts.ticket();
    let (_, _, other) = hosts.ticket();
    let ticket = Ticket::open(&text, hosts.at(&hosts.app)).unwrap();
    assert_eq!((ticket.session, ticket.return_to.as_str()), (session, PAGE));
    let verify = |secret| ticket.verify(secret, NOW);
    assert_eq!(verify(Some(secret.expose().as_bytes())), Ok(()));
    let refused = Err(StateError::OtherBrowser);
    assert_eq!(verify(Some(other.expose().as_bytes())), refused);
    assert_eq!(verify(Some(b"")), refused);
    assert_eq!(verify(None), Err(StateError::NoCookie));
}

#[test]
fn a_42_a_changed_ticket_or_a_ticket_for_another_host_is_foreign() {
    let hosts = Hosts::new();
    let (text, ..) = hosts.ticket();
    let open = |text: &str, at| Ticket::open(text, hosts.at(at)).map(|ticket| ticket.session);
    for at in [&hosts.login, &hosts.other] {
        assert_eq!(open(&text, at), Err(StateError::Foreign), "{at}");
    }
    assert_eq!(open("", &hosts.app), Err(StateError::Missing));
    assert_eq!(
        open(&hosts.request(&hosts.app), &hosts.app),
        Err(StateError::Foreign)
    );
    for position in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[position] = if changed[position] == b'A' {
            b'B'
        } else {
            b'A'
        };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(
            open(&changed, &hosts.app),
            Err(StateError::Foreign),
            "{position}"
        );
        let cut = text.get(..position).unwrap();
        assert!(open(cut, &hosts.app).is_err(), "{position}");
    }
}

#[test]
fn a_44_a_ticket_is_over_after_a_minute() {
    let hosts = Hosts::new();
    let (text, _, secret) = hosts.ticket();
    let ticket = Ticket::open(&text, hosts.at(&hosts.app)).unwrap();
    let verify = |after| ticket.verify(Some(secret.expose().as_bytes()), NOW.plus(after));
    assert_eq!(verify(Duration::from_millis(59_999)), Ok(()));
    assert_eq!(verify(Duration::from_mins(1)), Err(StateError::Expired));
}
