//! A child process that opens, replaces and ends sessions until it is killed, and the check of its
//! session file afterwards.
//!
//! Before each change, the child writes a line to standard output. After each change, the child
//! writes another line. A change with both lines must be in the file. A change with only the first
//! line may be in the file. `benches/durable.rs` also uses this file.

use std::collections::{BTreeMap, HashMap};
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

/// The number of tasks that change sessions in parallel.
pub(crate) const AT_ONCE: u64 = 16;

/// A folder with a session file and its keys.
#[derive(Clone, Debug)]
pub(crate) struct StoreFolder(PathBuf);

impl StoreFolder {
    /// Uses an existing folder, and creates a key if the folder has no key.
    pub(crate) fn new(folder: &Path) -> Self {
        let keys = folder.join("keys");
        if !keys.exists() {
            // 32 bytes in base64.
            std::fs::write(keys, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
        }
        Self(folder.to_owned())
    }

    /// The path of the session file.
    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("sessions.redb")
    }

    /// The store settings for this folder.
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
            of_providers: BTreeMap::new(),
            refresh_wait: Duration::from_secs(10),
            store,
        };
        let keys = Keys::from_file(&self.0.join("keys")).unwrap();
        let keys = keys.ring(Purpose::Sessions).unwrap();
        let providers = Registrations::from([("main".into(), [0; 32])]);
        Sessions::start(settings, keys, &providers, &Clock::system())
    }
}

/// A login with tokens of realistic length. The tokens contain the user and the version.
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
        sid: None,
        device: None,
        begun_at: Clock::system().now(),
    }
}

/// A small generator of pseudo-random numbers. The same seed gives the same changes.
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
    // If the parent has ended, no process reads this output.
    writeln!(std::io::stdout().lock(), "{what}").unwrap();
}

/// The work of the child, until it is killed or the disk is full. At its end, the child signs some
/// users out, because a sign-out needs no additional disk space.
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

/// Signs a user out. Returns whether this succeeded.
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
                Ok(other) => panic!("no other task changes it: {other:?}"),
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

/// The lines that a child has written.
#[derive(Debug, Default)]
pub(crate) struct ChildLog {
    sessions: HashMap<String, LoggedSession>,
    /// Logins that have begun.
    pub(crate) opening: u64,
    /// Logins that were acknowledged.
    pub(crate) opened: u64,
    /// Refreshes that were acknowledged.
    pub(crate) replaced: u64,
    /// Sign-outs that were acknowledged.
    pub(crate) ended: u64,
}

#[derive(Debug)]
struct LoggedSession {
    person: String,
    /// The acknowledged version; `None` after the session has ended.
    version: Option<u64>,
    pending: Pending,
}

/// A change that was announced and has not been acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pending {
    Nothing,
    Replacing(u64),
    Ending,
}

/// The difference between a session file and the child's log.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct FileContents {
    /// Sessions that were acknowledged and are live.
    pub(crate) live: u64,
    /// Sessions that were acknowledged, have not ended, and are missing.
    pub(crate) lost: u64,
    /// Sessions whose end was acknowledged, but that still exist.
    pub(crate) back: u64,
    /// Sessions whose tokens are neither those of the last acknowledged version nor those of a
    /// version that had begun.
    pub(crate) stale: u64,
    /// Sessions that the child has not announced: logins in progress.
    pub(crate) unannounced: u64,
}

impl FileContents {
    /// Whether the file contains all acknowledged changes, and no other changes except changes that
    /// had begun.
    pub(crate) fn is_exact(&self, child_log: &ChildLog) -> bool {
        let wrong = self.lost + self.back + self.stale;
        wrong == 0 && self.unannounced <= child_log.opening - child_log.opened
    }
}

impl ChildLog {
    /// The number of acknowledged changes.
    pub(crate) fn done(&self) -> u64 {
        self.opened + self.replaced + self.ended
    }

    /// Reads to the end, or until `enough`.
    pub(crate) fn read(&mut self, lines: &mut impl BufRead, enough: impl Fn(&Self) -> bool) {
        let mut line = String::new();
        while !enough(self) {
            line.clear();
            // A truncated line is ignored.
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
            // These lines come from the test harness.
            _ => {}
        }
    }

    fn logged(&mut self, id: &str) -> &mut LoggedSession {
        self.sessions.get_mut(id).expect("it was opened")
    }

    /// Compares the log with the sessions in the store. A change that had begun may be in the store
    /// or not. After the check, the log contains the sessions that are in the store.
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

/// Whether a session has this user and the tokens of its version.
fn is_own(session: &Session, person: &str) -> bool {
    let own = login(person, session.version());
    let (tokens, own_tokens) = (session.tokens(), own.tokens);
    let refresh = tokens.refresh_token().unwrap().expose();
    session.identity().same_user(&own.identity)
        && tokens.access_token() == own_tokens.access_token()
        && own_tokens
            .refresh_token()
            .unwrap()
            .matches(refresh.as_bytes())
}
