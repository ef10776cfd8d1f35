//! The rows of the tables, in each mode.

use url::Url;

use super::{APP, MODES, NAVIGATION, Running, WILD, latin1, passed};
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::decode;
use crate::support::raw::{Response, unescape};
use crate::support::scene::{ORIGIN, SESSION};

/// The columns of each row of a data file.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split('\t').collect())
}

/// Rows whose field decides about the message itself. Other tests send these fields.
const OF_THE_MESSAGE: [&str; 3] = ["Host", "Cookie", "Content-Length"];

#[tokio::test]
async fn h_01_h_20_h_33_h_37_no_mode_forwards_a_field_that_the_table_forbids() {
    let spellings: [fn(&str) -> String; 4] = [
        str::to_lowercase,
        str::to_uppercase,
        |name| name.replace('-', "_"),
        |name| name.replace('-', "."),
    ];
    for mode in MODES {
        // The table expects that `X-User` is a field of the gateway.
        let assertions = "[assertions]\n";
        let user = "[assertions]\nfields.\"X-User\" = { constant = \"told\" }\n";
        let tables = if mode.tables.contains(assertions) {
            mode.tables.replace(assertions, user)
        } else {
            format!("{user}{}", mode.tables)
        };
        let running = Running::start_with(mode, &tables).await;
        let session = running.session().await;
        let mut names: Vec<(String, bool)> = rows(include_str!("../../data/field_names.txt"))
            .filter(|row| !OF_THE_MESSAGE.contains(&row[1]))
            .map(|row| (row[1].to_owned(), row[2] == "passes"))
            .collect();
        for (name, _) in mode.sees {
            let spelled = spellings.iter().map(|spell| spell(name));
            names.extend(spelled.map(|name| (name, false)));
        }
        let mut count = 0;
        for (name, passes) in &names {
            let lines =
                format!("{name}: forged\r\nCookie: {SESSION}={session}\r\n{name}: forged\r\n");
            let (status, arrived) = running.status(b"/x", lines.as_bytes()).await;
            assert_eq!(status, 200, "{} {name}", mode.name);
            let arrived = arrived.unwrap();
            running.assert_sees(&arrived, name);
            let forged = latin1(&arrived.head.bytes).contains("forged");
            assert_eq!(forged, *passes, "{} {name}", mode.name);
            count += 1;
        }
        // Without a session, none of the fields makes a user.
        let forbidden = names.iter().filter(|(_, passes)| !passes);
        let lines: String = forbidden
            .flat_map(|(name, _)| [name.as_str(), ": forged\r\n"])
            .collect();
        let (status, arrived) = running.status(b"/x", lines.as_bytes()).await;
        if let Some(arrived) = &arrived {
            assert!(
                !latin1(&arrived.head.bytes).contains("forged"),
                "{}",
                mode.name
            );
        }
        running.assert_nobody((status, arrived), "forged fields");
        passed(&mode, count);
    }
}

#[tokio::test]
async fn p_01_to_p_54_every_mode_reads_the_targets_of_the_tables_as_written() {
    let allowable = rows(include_str!("../../data/allowable_targets.txt"));
    let allowable: Vec<_> = allowable.map(|row| row[0]).collect();
    let usual = rows(include_str!("../../data/targets.txt")).map(|row| {
        // The host of the table, and another scheme than that of the gateway.
        let sent = row[1].replace("https://GW.test:443", "http://GW.test:80");
        (sent, row[2].to_owned(), allowable.contains(&row[1]))
    });
    let unusual = rows(include_str!("../../data/unusual_targets.txt")).map(|row| {
        let canonical = row.get(3).copied().unwrap_or("!");
        (row[1].to_owned(), canonical.to_owned(), canonical != "!")
    });
    let usual: Vec<_> = usual.collect();
    let unusual: Vec<_> = unusual.collect();
    for mode in MODES {
        let running = Running::start(mode).await;
        let session = running.session().await;
        let lines = format!("Cookie: {SESSION}={session}\r\n");
        let mut count = 0;
        for (is_usual, (sent, wanted, has_only_forms)) in
            (usual.iter().map(|row| (true, row))).chain(unusual.iter().map(|row| (false, row)))
        {
            let sent = sent
                .replace("gw.test", running.host())
                .replace("GW.test", &running.host().to_uppercase());
            let sent = unescape(&sent);
            let context = format!("{}: {}", mode.name, latin1(&sent));
            let (status, arrived) = running.status(&sent, lines.as_bytes()).await;
            count += 1;
            let is_refused = if is_usual {
                wanted.starts_with('!') && !(mode.allows_forms() && *has_only_forms)
            } else {
                !(mode.allows_forms() && *has_only_forms)
            };
            if is_refused {
                assert_eq!((status, arrived.is_none()), (400, true), "{context}");
                continue;
            }
            assert_eq!(status, 200, "{context}");
            let arrived = arrived.unwrap();
            running.assert_sees(&arrived, &context);
            if wanted.starts_with('!') {
                continue;
            }
            let wanted = if wanted == "=" {
                latin1(&sent)
            } else {
                wanted.clone()
            };
            let wanted = format!("{}{wanted}", mode.app_prefix);
            assert_eq!(arrived.target(), wanted, "{context}");
        }
        passed(&mode, count);
    }
}

/// The name of the session cookie in the table.
const NAME: &str = "__Host-s";

/// The values in the table that stand for a session id.
const VALUES: [&str; 3] = ["a", "v", "good"];

/// Returns a line of the table with the name of the session cookie, and with a session id in each
/// session cookie that has one of the [`VALUES`].
fn with_session(line: &str, session: &str) -> String {
    let line = line.replace(NAME, SESSION);
    let pieces = line.split(';').map(|piece| {
        for value in VALUES {
            let pair = format!("{SESSION}={value}");
            let around = piece.split_once(&pair);
            let is_pair = |(before, after): &(&str, &str)| {
                before.replace("\\t", "").trim().is_empty() && after.trim().is_empty()
            };
            if let Some((before, after)) = around.filter(is_pair) {
                return format!("{before}{SESSION}={session}{after}");
            }
        }
        piece.to_owned()
    });
    pieces.collect::<Vec<_>>().join(";")
}

#[tokio::test]
async fn c_02_c_03_c_04_h_26_every_mode_splits_and_removes_cookies_as_written() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let session = running.session().await;
        let mut count = 0;
        for row in rows(include_str!("../../data/cookies.txt")) {
            let [_, sent, found, left] = row[..] else {
                panic!("four columns: {row:?}")
            };
            // The session id stands for the value that the cookie has in the table.
            let value = found.trim_matches(['<', '>']);
            let is_live = VALUES.contains(&value);
            let lines: Vec<u8> = sent
                .split(" | ")
                .map(|line| with_session(line, &session))
                .flat_map(|line| [b"Cookie: ", &*unescape(&line), b"\r\n"].concat())
                .collect();
            let context = format!("{}: {sent}", mode.name);
            let (status, arrived) = running.status(b"/x", &lines).await;
            count += 1;
            if !is_live && !mode.is_public() {
                assert_eq!((status, arrived.is_none()), (401, true), "{context}");
                continue;
            }
            assert_eq!(status, 200, "{context}");
            let arrived = arrived.unwrap();
            if is_live {
                running.assert_sees(&arrived, &context);
            } else {
                assert_eq!(
                    arrived.head.values("x-forwarded-user"),
                    [""; 0],
                    "{context}"
                );
            }
            let wanted = match left {
                "-" => vec![],
                "=" => vec![latin1(&unescape(&sent.replace(NAME, SESSION)))],
                line => vec![latin1(&unescape(&line.replace(NAME, SESSION)))],
            };
            assert_eq!(arrived.head.values("cookie"), wanted, "{context}");
        }
        passed(&mode, count);
    }
}

/// Decodes `\xNN`, `\\` and `\repeat{text}{n}` in a row of the table of return paths. A character
/// becomes one byte.
fn return_path(text: &str) -> Vec<u8> {
    if let Some(repeat) = text.strip_prefix("\\repeat{") {
        let (text, times) = repeat.strip_suffix('}').unwrap().split_once("}{").unwrap();
        return text.repeat(times.parse().unwrap()).into_bytes();
    }
    unescape(text)
}

/// The URL at which a login begins. `None` if the answer begins no login.
fn next(response: &Response, context: &str) -> Option<String> {
    match response.status() {
        303 => response.head.value("location"),
        400 | 414 | 431 => None,
        401 => {
            let text = response.text();
            let next = data(&text, "next");
            if next.is_none() {
                assert!(text.contains("page_not_kept"), "{context}: {text}");
            }
            next
        }
        other => panic!("{context}: {other}"),
    }
}

/// A value for the script of a page.
fn data(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!(" data-{name}=\""))?;
    Some(decode(rest.split_once('"')?.0))
}

/// Sends the form that the script of the page `restore` sends, with the sealed address from the
/// storage of the tab. Returns the answer.
async fn restored(browser: &Browser, restore: &Page, sealed: &str) -> Page {
    let path = data(&restore.text(), "path").unwrap();
    let address = restore.url.join(&path).unwrap();
    let form = BrowserRequest::navigation(address.as_str()).form(&[("page", sealed)]);
    browser.send(form.from(restore.url.as_str())).await
}

impl Running {
    /// Completes the login that the answer begins. Fails if a step leads to another origin.
    async fn complete(&self, response: &Response, context: &str) -> bool {
        let Some(next) = next(response, context) else {
            return false;
        };
        let browser = self.browser();
        for cookie in response.head.values("set-cookie") {
            browser.plant(self.mode.origin, &cookie);
        }
        let provider = Url::parse(&self.provider.url()).unwrap().origin();
        let known = [ORIGIN, APP, WILD, &provider.ascii_serialization()].map(str::to_owned);
        let assert_known = |url: &Url| {
            let origin = url.origin().ascii_serialization();
            assert!(known.contains(&origin), "{context} led to {url}");
        };
        let base = Url::parse(self.mode.origin).unwrap();
        let first = base.join(&next).unwrap();
        assert_known(&first);
        // On a route that keeps fragments, the script of the first page has stored this address.
        let sealed = data(&response.text(), "page");
        assert_eq!(sealed.is_some(), response.status() == 401, "{context}");
        let mut page = browser.open(first.as_str()).await;
        for _ in 0..20 {
            let next = match page.location() {
                Some(next) => next,
                None if page.url.path().contains("/restore/") => {
                    let sealed = sealed.as_ref().expect(context);
                    let answer = restored(&browser, &page, sealed).await;
                    assert_eq!(answer.status, 303, "{context}: {}", answer.describe());
                    let next = answer.location().unwrap();
                    let origin = next.origin().ascii_serialization();
                    assert_eq!(origin, self.mode.origin, "{context} led to {next}");
                    // A browser without scripts opens the endpoint that the page names.
                    page.url.join(&page.refresh_target()).unwrap()
                }
                None => break,
            };
            assert_known(&next);
            page = browser.open(next.as_str()).await;
        }
        let origin = page.url.origin().ascii_serialization();
        assert_eq!(origin, self.mode.origin, "{context}: {}", page.describe());
        assert!(
            browser.cookie(self.mode.origin, SESSION).is_some(),
            "{context}"
        );
        true
    }
}

#[tokio::test]
async fn r_table_no_mode_returns_to_another_origin() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let (mut count, mut logins) = (0, 0);
        for row in rows(include_str!("../../data/return_to.txt")) {
            let text = return_path(row[1]);
            let context = format!("{}: {}", mode.name, row[1]);
            count += 1;
            // As the target of a request that needs a login.
            let visible = text.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
            if text.starts_with(b"/") && visible && !mode.is_public() {
                let lines = (NAVIGATION.as_bytes(), &b""[..]);
                let (response, arrived) = running.send("GET", &text, lines).await;
                assert!(arrived.is_none(), "{context}");
                let completed = running.complete(&response.expect(&context), &context).await;
                logins += usize::from(completed);
            }
            // In the parameters and in the `Referer` of a request to sign in.
            if !text.iter().all(|byte| *byte >= b' ' && *byte != 0x7f) {
                continue;
            }
            let encoded =
                percent_encoding::percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
            let target = format!("/oauth2/sign_in?to={encoded}&rd={encoded}&next={encoded}");
            let referrer = [b"Referer: ", mode.origin.as_bytes(), &text, b"\r\n"].concat();
            let lines = [NAVIGATION.as_bytes(), &referrer].concat();
            let (response, arrived) = (running)
                .send("GET", target.as_bytes(), (&lines, b""))
                .await;
            assert!(arrived.is_none(), "{context}");
            let completed = running.complete(&response.expect(&context), &context).await;
            logins += usize::from(completed);
        }
        assert!(logins > 40, "{}: {logins} logins", mode.name);
        passed(&mode, count);
    }
}
