//! Reads and checks the keys that sign assertions.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::section::Reader;
use crate::access::{Route, RouteTable};
use crate::login::{PublicUrl, PublicUrls};
use crate::telemetry::chain;
use crate::upstream::{AssertionNames, SignedAssertion, SigningKeys};

/// The section `signing`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SigningSection {
    key_files: Vec<PathBuf>,
}

/// The issuer of signed assertions, and its keys.
pub(super) struct Signing {
    issuer: Box<str>,
    keys: Arc<SigningKeys>,
}

impl Signing {
    /// Returns the assertions of the app `upstream` with these names. Returns `None` if the app
    /// gets no signed assertion.
    pub(super) fn assertion(
        &self,
        names: &AssertionNames,
        upstream: &str,
    ) -> Option<SignedAssertion> {
        let settings = names.signed.as_ref()?;
        let bytes = names.groups_form.bytes;
        let issuer = (&*self.issuer, &self.keys);
        Some(SignedAssertion::new(settings, upstream, bytes, issuer))
    }

    /// Returns the set of public keys as JSON.
    pub(super) fn key_set(&self) -> Arc<str> {
        self.keys.key_set().into()
    }
}

/// Reads the section `signing` and its key files. Returns `None` if there is no usable key.
pub(super) fn signing(
    public_urls: Option<&PublicUrls>,
    names: Option<&AssertionNames>,
    reader: &mut Reader<'_>,
) -> Option<Signing> {
    let section: SigningSection = reader.read("signing")?;
    if let Some(signed) = names.and_then(|names| names.signed.as_ref())
        && signed.audience.is_some()
    {
        let reason = "would be the audience of every app, so an app could use the assertions of \
                      another app; write the key in [upstreams.NAME.assertions.signed]";
        reader.note("assertions.signed.audience", reason);
    }
    match SigningKeys::from_files(&section.key_files) {
        Ok(keys) => {
            // If the first public URL has a problem, the settings are refused, so nothing is signed
            // for the empty issuer.
            let first = public_urls.and_then(|urls| urls.listed().next());
            Some(Signing {
                keys: Arc::new(keys?),
                issuer: first.map_or("", PublicUrl::origin).into(),
            })
        }
        Err(errors) => {
            for (index, error) in errors {
                reader.note(&format!("{KEYS}.{index}"), chain(&error));
            }
            None
        }
    }
}

/// Reports keys that no route uses, and signed assertions without a key.
pub(super) fn check(signing: Option<&Signing>, routes: &RouteTable, reader: &mut Reader<'_>) {
    // A problem of one of these sections was already reported. Such a problem can hide a signed
    // assertion or a key.
    let sections = ["assertions", "signing", "upstreams"];
    if !sections.iter().all(|section| reader.is_clean(section)) {
        return;
    }
    check_audiences(routes, reader);
    let mut routes = routes.iter();
    let is_used = routes.any(|route| route.fields().names.signed.is_some());
    match signing {
        Some(_) if !is_used => {
            let reason = "has no effect, because no app with a route gets a signed assertion; write \
                          assertions.signed.field, or leave `key_files` out";
            reader.note(KEYS, reason);
        }
        None if is_used => {
            let reason = "is required, because the settings contain a signed assertion: name a \
                          file with a private key";
            reader.note(KEYS, reason);
        }
        Some(_) | None => {}
    }
}

/// Refuses a route for auth checks whose name is also the audience of another app. The gateway does
/// not know the app of such a route, so the name of the route is the audience.
fn check_audiences(routes: &RouteTable, reader: &mut Reader<'_>) {
    let mut signed: Vec<&Route> = routes
        .iter()
        .filter(|route| audience(route).is_some())
        .collect();
    signed.sort_by_key(|route| route.index());
    for (position, route) in signed.iter().enumerate() {
        let mut before = signed.iter().take(position);
        if let Some(other) = before.find(|other| is_ambiguous(route, other)) {
            // The name of an upstream cannot be changed in a route.
            let index = if route.is_for_auth_checks() {
                route.index()
            } else {
                other.index()
            };
            let reason = format!(
                "`{}` is the audience of the signed assertions of two apps, so one app could use the \
                 assertions of the other app; write another `name` in one of the two routes",
                audience(route).unwrap_or_default()
            );
            reader.note(&format!("routes.{index}.name"), reason);
        }
    }
}

fn audience(route: &Route) -> Option<&str> {
    let signed = route.fields().signed.as_ref()?;
    Some(signed.audience())
}

/// Returns true if two routes have the same audience, but probably not the same app. Routes for auth
/// checks with the same name and the same hosts belong to the same app.
fn is_ambiguous(one: &Route, other: &Route) -> bool {
    let hosts = |route: &Route| -> BTreeSet<String> { route.hosts().map(str::to_owned).collect() };
    let is_same_app = match (one.is_for_auth_checks(), other.is_for_auth_checks()) {
        // The operator has given both upstreams the same audience.
        (false, false) => true,
        (true, true) => hosts(one) == hosts(other),
        (true, false) | (false, true) => false,
    };
    !is_same_app && audience(one) == audience(other)
}

const KEYS: &str = "signing.key_files";

#[cfg(test)]
mod tests {
    use crate::access::Route;
    use crate::config::tests::{SMALL, TestSettings, keys_of};
    use crate::upstream::AssertionNames;

    const KEY: &str = "\n[signing]\nkey_files = [\"@/key\"]\n";

    fn settings(more: &str) -> TestSettings {
        let settings = TestSettings::new(&format!("{SMALL}{more}"));
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        settings.file("key", &key);
        settings
    }

    fn problem(more: &str) -> String {
        let problems = settings(more).problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems[0].clone()
    }

    #[test]
    fn a_signed_assertion_needs_a_key_and_a_key_needs_a_signed_assertion() {
        for used in [
            "[assertions.signed]",
            "[upstreams.app.assertions.signed]\naudience = \"wiki\"",
            "[assertions]\nsigned.field = \"\"\n[upstreams.app.assertions.signed]",
        ] {
            let config = settings(&format!("{used}{KEY}")).load().unwrap();
            let key_set = config.site.gateway.key_set.unwrap();
            assert!(key_set.contains("\"kid\""), "{used}: {key_set}");
            let field = "x-sidegate-assertion";
            let written = config.site.gateway.written_fields;
            assert!(written.iter().any(|name| name == field), "{used}");
            let problem = problem(used);
            assert!(
                problem.starts_with("signing.key_files: is required"),
                "{problem}"
            );
        }
        for unused in [
            "",
            "[assertions.signed]\nfield = \"\"",
            "[assertions.signed]\n[upstreams.app.assertions]\nsigned.field = \"\"",
            // No route leads to the app with the signed assertion.
            "[upstreams.other]\nurl = \"http://127.0.0.1:1\"\nassertions.signed = {}\n\
             [[routes]]\nupstream = \"app\"",
        ] {
            let problem = problem(&format!("{unused}{KEY}"));
            let expected = "signing.key_files: has no effect";
            assert!(problem.starts_with(expected), "{problem}");
        }
        let config = settings("").load().unwrap();
        assert_eq!(config.site.gateway.key_set, None);
    }

    #[test]
    fn an_app_inherits_each_key_of_its_signed_assertion() {
        let common =
            "[assertions.signed]\nfield = \"X-A\"\nlifetime_secs = 15\nclaims = [\"name\"]";
        let own = "[upstreams.app.assertions.signed]";
        for (more, expected) in [
            (
                format!("{common}\n{own}\naudience = \"wiki\""),
                r#"{"field": "X-A", "lifetime_secs": 15, "claims": ["name"], "audience": "wiki"}"#,
            ),
            (
                format!("{common}\n{own}\nlifetime_secs = 20\nfield = \"X-B\""),
                r#"{"field": "X-B", "lifetime_secs": 20, "claims": ["name"]}"#,
            ),
            // The common section contains no signed assertion, so nothing is inherited.
            (
                format!("[assertions]\nsigned.field = \"\"\n{own}\nclaims = []"),
                r#"{"claims": []}"#,
            ),
        ] {
            let names = format!(r#"{{"signed": {expected}}}"#);
            let names: AssertionNames = serde_json::from_str(&names).unwrap();
            let config = settings(&format!("{more}{KEY}")).load().unwrap();
            let route = config.site.routes.iter().next().unwrap();
            assert_eq!(route.fields().names.signed, names.signed, "{more}");
        }
        // The app gets no signed assertion, and the other app gets the common one.
        let without = format!(
            "{common}\n{own}\nfield = \"\"\n[upstreams.other]\nurl = \"http://127.0.0.1:1\"\n\
             [[routes]]\nupstream = \"app\"\n[[routes]]\nupstream = \"other\"\nprefix = \"/other\"{KEY}"
        );
        let config = settings(&without).load().unwrap();
        let signed = |route: &Route| route.fields().signed.is_some();
        let with: Vec<_> = config
            .site
            .routes
            .iter()
            .filter(|route| signed(route))
            .collect();
        assert_eq!(with.len(), 1);
        assert_eq!(with[0].upstream_name(), Some("other"));
    }

    #[test]
    fn two_apps_behind_auth_checks_have_different_audiences() {
        let common = "public_url = [\"https://a.example.com\", \"https://b.example.com\"]\n\
                      [assertions.signed]\n[[auth_check.proxies]]\nnetworks = [\"10.0.0.5\"]\n\
                      kind = \"nginx\"\n";
        let route = |name: &str, host: &str, prefix: &str| {
            format!(
                "[[routes]]\nupstream = \"\"\nname = \"{name}\"\n\
                 hosts = [\"{host}.example.com\"]\nprefix = \"{prefix}\"\n"
            )
        };
        let of_app = "[[routes]]\nupstream = \"app\"\nprefix = \"/app\"\n";
        let written = |routes: &str| {
            let text = SMALL.replacen("public_url", "# public_url", 1);
            let settings = TestSettings::new(&format!("{common}{text}{routes}{KEY}"));
            let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
            settings.file("key", &key);
            settings
        };
        for good in [
            [route("wiki", "a", "/"), route("mail", "b", "/")].concat(),
            [route("wiki", "a", "/"), route("wiki", "a", "/admin")].concat(),
            [route("wiki", "a", "/"), of_app.to_owned()].concat(),
        ] {
            let loaded = written(&good).load();
            assert!(loaded.is_ok(), "{good}: {:?}", loaded.err());
        }
        for (bad, index) in [
            (
                [route("wiki", "a", "/"), route("wiki", "b", "/")].concat(),
                1,
            ),
            ([route("app", "a", "/"), of_app.to_owned()].concat(), 0),
        ] {
            let problems = written(&bad).load().unwrap_err().to_string();
            let key = format!("routes.{index}.name");
            assert!(problems.contains(&key), "{bad}: {problems}");
            assert!(problems.contains("of two apps"), "{bad}: {problems}");
        }
    }

    #[test]
    fn settings_of_signed_assertions_that_mean_nothing_or_too_much_are_problems() {
        let audience = "[assertions.signed]\naudience = \"all\"";
        let problem = problem(&format!("{audience}{KEY}"));
        assert!(
            problem.starts_with("assertions.signed.audience: would be"),
            "{problem}"
        );
        let absent = KEY.replace("@/key", "@/absent");
        for (more, key) in [
            (
                format!("[assertions.signed]{absent}"),
                "signing.key_files.0",
            ),
            (
                format!(
                    "[assertions.signed]{}",
                    KEY.replace("\"@", "\"@/secret\", \"@")
                ),
                "signing.key_files.0",
            ),
            (
                format!("[assertions.signed]{KEY}algorithm = \"RS256\""),
                "signing.algorithm",
            ),
            (
                format!("[assertions]\nsigned = true{KEY}"),
                "assertions.signed",
            ),
            (
                format!("[assertions.signed]\nlifetime_secs = 5{KEY}"),
                "assertions",
            ),
        ] {
            let problems = settings(&more).problems();
            assert_eq!(keys_of(&problems), [key], "{problems:#?}");
        }
        // Without a subject, an assertion would name no user.
        let nobody = SMALL.replace(
            "identity.source = \"userinfo\"",
            "identity.source = \"none\"",
        );
        let nobody = nobody.replace("userinfo_endpoint = \"https://id.example.com/user\"", "");
        let settings = TestSettings::new(&format!("{nobody}[assertions.signed]{KEY}"));
        settings.file("key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
        assert_eq!(keys_of(&settings.problems()), ["assertions.signed"]);
    }
}
