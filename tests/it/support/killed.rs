//! Sessions that a child process opens, replaces and ends until it is killed, and the account of
//! what it had acknowledged.
//!
//! The child says on its standard output what it is about to do and what was done, one line each.
//! What was said to be done has to be in the file; what was only begun may be. `benches/durable.rs`
//! uses it, too.

use std::collections::HashMap;
use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sidegate::clock::{Clock, Timestamp};
use sidegate::identity::{Claim, Identity};
use sidegate::seal::{Keys, Purpose};
use sidegate::session::{
    DiskSettings, Lookup, NewSession, Registrations, Replaced, Session, SessionId, Sessions,
    Settings, StartError, StoreSettings,
};
use sidegate::token::{Lifetime, TokenSet};

/// How many tasks change sessions at once.
pub(crate) const AT_ONCE: u64 = 16;

/// A folder with a file of sessions and its keys.
#[derive(Clone, Debug)]
pub(crate) struct StoreFolder(PathBuf);

impl StoreFolder {
    /// In a folder that is there; a key is made if it has none.
    pub(crate) fn new(folder: &Path) -> Self {
        let keys = folder.join("keys");
        if !keys.exists() {
            // 32 bytes in base64.
            std::fs::write(keys, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
        }
        Self(folder.to_owned())
    }

    /// The file of sessions.
    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("sessions.redb")
    }

    /// What settings name where sessions lie here.
    pub(crate) fn store(&self) -> StoreSettings {
        StoreSettings::Disk(DiskSettings { file: self.file() })
    }

    /// Opens the store.
    pub(crate) fn start(&self, store: StoreSettings) -> Result<Sessions, StartError> {
        let settings = Settings {
            idle: Duration::from_hours(1),
            absolute: Duration::from_hours(8),
            capacity: 1 << 30,
            per_person: 10,
            refresh_wait: Duration::from_secs(10),
            store,
        };
        let keys = Keys::from_file(&self.0.join("keys")).unwrap();
        let keys = keys.ring(Purpose::Sessions).unwrap();
        let providers = Registrations::from([("main".into(), [0; 32])]);
        Sessions::start(settings, keys, &providers, Clock::system().now())
    }
}

/// A login with tokens as long as real ones are. Which person and version they are of can be read
/// in them.
pub(crate) fn login(person: &str, version: u64) -> NewSession<'static> {
    let access = format!("{person}.{version}.{}", "a".repeat(1080));
    let refresh = format!("{person}.{version}.{}", "r".repeat(880));
    NewSession {
        provider: "main",
        registration: [0; 32],
        identity: Identity {
            subject: Claim::new(person),
            ..Identity::nameless("https://id.example.com")
        },
        tokens: TokenSet::new(&access, Some(&refresh), Lifetime::default()).unwrap(),
        replaces: Vec::new(),
    }
}

/// A small generator, so that a seed gives the same deeds again.
#[derive(Debug)]
pub(crate) struct RandomNumbers(u64);

impl RandomNumbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `most`.
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % most
    }
}

fn announce(what: &str) {
    // Nobody listens any more once the parent is gone.
    writeln!(std::io::stdout().lock(), "{what}").unwrap();
}

/// What the child does, until it is killed or the disk takes no more. In the end it signs some out:
/// that needs no room that a renewal did not free.
pub(crate) async fn change_sessions(store_folder: &StoreFolder, seed: u64) {
    announce("");
    let sessions = Arc::new(store_folder.start(store_folder.store()).unwrap());
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let sessions = Arc::clone(&sessions);
            tokio::spawn(one_task(sessions, seed.wrapping_mul(AT_ONCE) + number))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn one_task(sessions: Arc<Sessions>, seed: u64) {
    let mut held = Vec::new();
    change(&sessions, seed, &mut held).await;
    for (id, _) in held.into_iter().take(2) {
        end(&sessions, &id).await;
    }
}

/// Signs somebody out, and says whether that could be done.
async fn end(sessions: &Sessions, id: &SessionId) -> bool {
    let text = id.to_text();
    announce(&format!("ending {}", text.expose()));
    let ended = sessions
        .end(&id.key(), sidegate::session::EndReason::SignedOut)
        .await
        .is_ok();
    if ended {
        announce(&format!("ended {}", text.expose()));
    }
    ended
}

async fn change(sessions: &Sessions, seed: u64, held: &mut Vec<(SessionId, Arc<Session>)>) {
    let mut random = RandomNumbers::new(seed);
    let mut opened = 0;
    loop {
        let now = Clock::system().now();
        let what = random.below(10);
        if what < 5 || held.is_empty() {
            opened += 1;
            let person = format!("p{seed}-{opened}");
            announce("opening");
            let Ok(id) = sessions.open(login(&person, 0), now).await else {
                return;
            };
            announce(&format!("opened {} {person}", id.to_text().expose()));
            if let Lookup::Live(session) = sessions.find(&id, now) {
                held.push((id, session));
            }
            continue;
        }
        let index = usize::try_from(random.below(1000)).unwrap() % held.len();
        if what < 8 {
            let (id, session) = &mut held[index];
            let id = id.to_text();
            let (version, person) = (session.version() + 1, person_of(session));
            announce(&format!("replacing {} {version}", id.expose()));
            let tokens = login(&person, version).tokens;
            match sessions.replace(session, tokens, None).await {
                Ok(Replaced::Stored(new)) => *session = new,
                Ok(other) => panic!("nobody else touches it: {other:?}"),
                Err(_full) => return,
            }
            announce(&format!("replaced {} {version}", id.expose()));
        } else {
            let (id, _) = held.swap_remove(index);
            if !end(sessions, &id).await {
                return;
            }
        }
    }
}

fn person_of(session: &Session) -> String {
    let subject = session.identity().subject.as_ref().unwrap();
    subject.as_str().to_owned()
}

/// What a child said, line by line.
#[derive(Debug, Default)]
pub(crate) struct ChildLog {
    sessions: HashMap<String, LoggedSession>,
    /// Logins that were begun.
    pub(crate) opening: u64,
    /// Logins that were acknowledged.
    pub(crate) opened: u64,
    /// Renewals that were acknowledged.
    pub(crate) replaced: u64,
    /// Sign-outs that were acknowledged.
    pub(crate) ended: u64,
}

#[derive(Debug)]
struct LoggedSession {
    person: String,
    /// The version that was acknowledged; `None` once the session has ended.
    version: Option<u64>,
    pending: Pending,
}

/// What was said to begin, but not to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pending {
    Nothing,
    Replacing(u64),
    Ending,
}

/// What a file holds of what a ledger knows.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct FileContents {
    /// Sessions that were acknowledged and are live.
    pub(crate) live: u64,
    /// Sessions that were acknowledged, did not end, and are not there.
    pub(crate) lost: u64,
    /// Sessions whose end was acknowledged, and that are there.
    pub(crate) back: u64,
    /// Sessions with other tokens than those of the newest version that was acknowledged, or begun.
    pub(crate) stale: u64,
    /// Sessions that nobody has heard of: logins that were under way.
    pub(crate) unannounced: u64,
}

impl FileContents {
    /// Whether it is what was acknowledged, and of what was begun no more than can be.
    pub(crate) fn is_exact(&self, child_log: &ChildLog) -> bool {
        let wrong = self.lost + self.back + self.stale;
        wrong == 0 && self.unannounced <= child_log.opening - child_log.opened
    }
}

impl ChildLog {
    /// How much was acknowledged.
    pub(crate) fn done(&self) -> u64 {
        self.opened + self.replaced + self.ended
    }

    /// Reads on to the end, or until `enough`.
    pub(crate) fn read(&mut self, lines: &mut impl BufRead, enough: impl Fn(&Self) -> bool) {
        let mut line = String::new();
        while !enough(self) {
            line.clear();
            // A line that was cut off says nothing.
            match lines.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if let Some(whole) = line.strip_suffix('\n') {
                self.take(whole);
            }
        }
    }

    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["opening"] => self.opening += 1,
            ["opened", id, person] => {
                self.opened += 1;
                let logged = LoggedSession {
                    person: person.to_owned(),
                    version: Some(0),
                    pending: Pending::Nothing,
                };
                assert!(self.sessions.insert(id.to_owned(), logged).is_none());
            }
            ["replacing", id, version] => {
                self.logged(id).pending = Pending::Replacing(version.parse().unwrap());
            }
            ["replaced", id, version] => {
                self.replaced += 1;
                let logged = self.logged(id);
                logged.version = Some(version.parse().unwrap());
                logged.pending = Pending::Nothing;
            }
            ["ending", id] => self.logged(id).pending = Pending::Ending,
            ["ended", id] => {
                self.ended += 1;
                let logged = self.logged(id);
                logged.version = None;
                logged.pending = Pending::Nothing;
            }
            // What a test harness says.
            _ => {}
        }
    }

    fn logged(&mut self, id: &str) -> &mut LoggedSession {
        self.sessions.get_mut(id).expect("it was opened")
    }

    /// Compares with what is held now: each thing that was begun is done or not. What is held is
    /// what is known from then on.
    pub(crate) async fn check(&mut self, sessions: &Sessions, now: Timestamp) -> FileContents {
        let mut held = FileContents::default();
        for (text, logged) in &mut self.sessions {
            let id = SessionId::parse(text.as_bytes()).unwrap();
            let found = match sessions.find(&id, now) {
                Lookup::Live(session) => Some(session),
                Lookup::Away => sessions.fetch(&id.key()).await.unwrap(),
                Lookup::Expired | Lookup::OtherInstance | Lookup::Unknown => None,
            };
            let pending = std::mem::replace(&mut logged.pending, Pending::Nothing);
            match (found, logged.version) {
                (None, None) => {}
                (None, Some(_)) => {
                    held.lost += u64::from(pending != Pending::Ending);
                    logged.version = None;
                }
                (Some(_), None) => held.back += 1,
                (Some(session), Some(acknowledged)) => {
                    held.live += 1;
                    let version = session.version();
                    let is_newest =
                        version == acknowledged || pending == Pending::Replacing(version);
                    let is_own = is_own(&session, &logged.person);
                    held.stale += u64::from(!is_newest || !is_own);
                    logged.version = Some(version);
                }
            }
        }
        let announced = held.live + held.back;
        held.unannounced = sessions.count().saturating_sub(announced);
        held
    }
}

/// Whether a session is that of its person, with the tokens of its version.
fn is_own(session: &Session, person: &str) -> bool {
    let own = login(person, session.version());
    let (tokens, own_tokens) = (session.tokens(), own.tokens);
    let refresh = tokens.refresh_token().unwrap().expose();
    session.identity().same_person(&own.identity)
        && tokens.access_token() == own_tokens.access_token()
        && own_tokens
            .refresh_token()
            .unwrap()
            .matches(refresh.as_bytes())
}
