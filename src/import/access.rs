//! Converts the rule that decides who may pass, and the public paths, to routes.

use std::fs;

use super::app::{App, Apps};
use super::convert::Import;
use super::document::Value;
use super::server::proxy_networks;
use super::skip::{self, NoPrefix, Prefixes};
use super::{Grade, provider};

/// The options that restrict the users of one provider, each with the name of the provider. No rule
/// of Sidegate can express these options.
const RESTRICTIONS: [(&str, &str); 6] = [
    ("google-group", "google"),
    ("gitlab-project", "gitlab"),
    ("github-repo", "github"),
    ("github-user", "github"),
    ("bitbucket-team", "bitbucket"),
    ("bitbucket-repository", "bitbucket"),
];

/// An address that no user has.
const NOBODY: &str = "nobody@example.invalid";

/// The value of `access`, and the name of the option.
type Rule = (Value, String);

pub(super) fn convert(import: &mut Import, apps: &Apps) {
    let rule = rule(import);
    let public = public_prefixes(import, apps);
    convert_return_hosts(import);
    for app in &apps.list {
        add_route(import, apps, app, (&app.prefix, &app.from), &rule);
    }
    for (prefix, app, from) in public {
        let rule = (Value::text("public"), from.clone());
        add_route(import, apps, app, (&prefix, &from), &rule);
    }
    close_prefixes(import, apps, &rule);
    if apps.only_checks {
        convert_auth_check(import, apps.keeps_auth_path);
    }
}

/// Writes the route of an app for a prefix. The prefix has the name of its option.
fn add_route(
    import: &mut Import,
    apps: &Apps,
    app: &App,
    (prefix, from): (&str, &str),
    (access, access_from): &Rule,
) {
    let mut lines = Vec::new();
    let mut add = |key: &str, value: Value, from: &str| {
        lines.push((key.to_owned(), value, from.to_owned()));
    };
    add("prefix", Value::text(prefix), from);
    if apps.list.len() > 1 || apps.only_checks {
        add("upstream", Value::text(&app.name), &app.from);
    }
    add("access", access.clone(), access_from);
    if apps.only_checks {
        for (key, value, from) in &app.keys {
            add(key, value.clone(), from);
        }
    }
    if let Some(new_prefix) = &app.new_prefix {
        let below = below(&app.prefix, prefix).unwrap_or_default();
        let new_prefix = format!("{}{below}", new_prefix.trim_end_matches('/'));
        add("rewrite.app_prefix", Value::Text(new_prefix), &app.from);
    }
    if import.flag("skip-auth-preflight", false) && *access != Value::text("public") {
        let from = import.written("skip-auth-preflight");
        add("allow_preflight", Value::Flag(true), &from);
    }
    if !app.websockets {
        let from = import.written("proxy-websockets");
        add("streams.upgrades", Value::Flag(false), &from);
    }
    import.document.add_table("[routes]", lines);
}

/// Writes a route without an app for the prefix of each upstream that is not carried over. Without
/// this route, the app with a shorter prefix would get the requests.
fn close_prefixes(import: &mut Import, apps: &Apps, rule: &Rule) {
    let mut known: Vec<&str> = apps.list.iter().map(|app| &*app.prefix).collect();
    for (prefix, from) in &apps.closed {
        if known.contains(&&**prefix) {
            continue;
        }
        known.push(prefix);
        let line = |key: &str, value: Value, from: &str| (key.to_owned(), value, from.to_owned());
        let lines = vec![
            line("prefix", Value::text(prefix), from),
            line("access", rule.0.clone(), &rule.1),
            line("answer.status", Value::Number(404), from),
        ];
        import.document.add_table("[routes]", lines);
    }
}

/// Returns the option that restricts the users of the provider, and that no rule can express.
fn restriction(import: &Import) -> Option<String> {
    let provider = provider::name(import);
    let of_provider = RESTRICTIONS.into_iter().filter(|(_, of)| *of == provider);
    let mut set = of_provider.filter(|(name, _)| import.list(name).iter().any(|v| !v.is_empty()));
    set.next().map(|(name, _)| import.written(name))
}

/// Returns the rule that decides who may pass.
fn rule(import: &mut Import) -> Rule {
    let profile = provider::profile(import);
    let (groups, groups_from) = groups(import, profile);
    let (is_everybody, domains) = domains(import);
    let emails = emails(import);
    let from = import.written("email-domain");
    if let Some(option) = restriction(import) {
        return nobody(&option);
    }
    if !groups.is_empty() {
        // A file that the import cannot read also restricts the addresses.
        let has_file = import.text("authenticated-emails-file").is_some();
        let needs_address = !is_everybody && (has_file || !domains.is_empty());
        return rule_of_groups(import, groups, &groups_from, needs_address);
    }
    if is_everybody && provider::is_open(import) {
        let text = "Anybody can create an account at this provider, so the rule would admit \
                    everybody. Write the domains, users or groups who may pass into `access`. Until \
                    then, nobody may pass.";
        import.remark(&from, Grade::Safe, text);
        return nobody(&from);
    }
    if is_everybody {
        return (Value::text("signed-in"), from);
    }
    let mut lists = Vec::new();
    let mut sources = Vec::new();
    if !domains.is_empty() {
        lists.push(("email_domains", Value::List(domains)));
        sources.push(from.clone());
    }
    if !emails.is_empty() {
        lists.push(("emails", Value::List(emails)));
        sources.push(import.written("authenticated-emails-file"));
    }
    if lists.is_empty() {
        let text = "The settings do not state who may pass, so oauth2-proxy does not start. Write \
                    the domains, users or groups who may pass into `access`. Until then, nobody may \
                    pass.";
        import.remark(&from, Grade::Lost, text);
        return nobody(&from);
    }
    if profile == "entra" {
        let text = "Entra ID states whether an address is verified only in the claim xms_edov. Add \
                    xms_edov to the ID token of the app registration.";
        import.remark(&from, Grade::ToDo, text);
    }
    any_of(lists, &sources.join(", "))
}

/// Returns the rule for the members of groups. `needs_address` states that oauth2-proxy also compares
/// the address.
fn rule_of_groups(
    import: &mut Import,
    groups: Vec<String>,
    from: &[String],
    needs_address: bool,
) -> Rule {
    if from.len() > 1 {
        let from = from.join(" and ");
        let text = "A rule of Sidegate permits the members of each listed group. The import does not \
                    combine several options about groups, because oauth2-proxy can require all of \
                    them. Write the groups who may pass into `access`. Until then, nobody may pass.";
        import.remark(&from, Grade::Lost, text);
        return nobody(&from);
    }
    if needs_address {
        let from = import.written("email-domain");
        let text = "oauth2-proxy requires both the address and the group. A rule of Sidegate \
                    compares one of them. If all members of the groups may pass, write the \
                    groups into `access`. Until then, nobody may pass.";
        import.remark(&from, Grade::Lost, text);
        return nobody(&from);
    }
    any_of(vec![("groups", Value::List(groups))], &from.join(", "))
}

/// Returns true if every address may pass, and the domains whose addresses may pass.
fn domains(import: &Import) -> (bool, Vec<String>) {
    let (everybody, domains): (Vec<String>, Vec<String>) = import
        .list("email-domain")
        .into_iter()
        .partition(|domain| domain == "*");
    let domains = domains.into_iter().map(|domain| {
        let parent = domain.strip_prefix('.');
        parent.map_or_else(|| domain.clone(), |parent| format!("*.{parent}"))
    });
    (!everybody.is_empty(), domains.collect())
}

fn any_of(lists: Vec<(&'static str, Value)>, from: &str) -> Rule {
    let lists = Value::Table(lists);
    (Value::Table(vec![("any_of", lists)]), from.to_owned())
}

fn nobody(from: &str) -> Rule {
    let nobody = Value::List(vec![NOBODY.to_owned()]);
    any_of(vec![("emails", nobody)], &format!("CHANGE THIS: {from}"))
}

/// Returns the groups of the rule, and the names of the options.
fn groups(import: &mut Import, profile: &str) -> (Vec<String>, Vec<String>) {
    let mut groups = Vec::new();
    let mut from = Vec::new();
    for name in [
        "allowed-group",
        "keycloak-group",
        "gitlab-group",
        "allowed-role",
    ] {
        let is_usable = match name {
            "gitlab-group" => profile == "gitlab",
            "keycloak-group" | "allowed-role" => profile == "keycloak",
            _ => true,
        };
        let mut list = import.list(name);
        if !list.is_empty() && is_usable {
            if profile == "github" {
                // oauth2-proxy separates the organization and the team by a colon.
                list = list.iter().map(|group| group.replace(':', "/")).collect();
            }
            groups.extend(list);
            from.push(import.written(name));
        }
    }
    if profile == "github" {
        let organization = import.text("github-org");
        if let Some((teams, written)) = import.text("github-team") {
            // A team is written alone, or with its organization before a colon.
            let organization = organization.map(|(name, _)| name);
            for team in teams.split(',').map(str::trim) {
                match (team.split_once(':'), &organization) {
                    (Some((organization, team)), _) => {
                        groups.push(format!("{organization}/{team}"));
                    }
                    (None, Some(organization)) => {
                        groups.push(format!("{organization}/{team}"));
                    }
                    (None, None) => {
                        let text = "A team of GitHub belongs to an organization. Write the group \
                                    as ORGANIZATION/TEAM.";
                        import.remark(&written, Grade::Lost, text);
                        groups.push(NOBODY.to_owned());
                    }
                }
            }
            from.push(written);
        } else if let Some((name, written)) = organization {
            groups.push(name);
            from.push(written);
        }
    }
    (groups, from)
}

/// Reads the file with the addresses of the users.
fn emails(import: &mut Import) -> Vec<String> {
    let Some((path, from)) = import.text("authenticated-emails-file") else {
        return Vec::new();
    };
    let Ok(text) = fs::read_to_string(path) else {
        let text =
            "The import cannot read the file. Write the addresses into a rule with `emails`.";
        import.remark(from, Grade::Lost, text);
        return Vec::new();
    };
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| line.contains('@') && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// A function that converts an entry of a list of regular expressions.
type ToPrefixes = fn(&str) -> Result<Prefixes, NoPrefix>;

/// Returns the prefixes of the public paths, each with its app and the name of its option.
fn public_prefixes<'a>(import: &mut Import, apps: &'a Apps) -> Vec<(String, &'a App, String)> {
    let mut public: Vec<(String, &App, String)> = Vec::new();
    let sources: [(&str, ToPrefixes); 2] = [
        ("skip-auth-route", skip::route),
        ("skip-auth-regex", skip::expression_to_prefixes),
    ];
    for (name, convert) in sources {
        let from = import.written(name);
        for entry in import.list(name) {
            let option = format!("{from} {entry}");
            let found = match convert(&entry) {
                Ok(found) => found,
                Err(NoPrefix::Everything) => {
                    import.remark(option, Grade::Safe, NoPrefix::Everything.text());
                    continue;
                }
                Err(reason) => {
                    import.remark(option, Grade::Lost, reason.text());
                    continue;
                }
            };
            let mut from = from.clone();
            if let Some(difference) = found.difference {
                import.remark(&option, Grade::Changed, difference.text());
                if difference == skip::Difference::Wider {
                    from = format!("CHECK THIS, because the paths below are also public: {from}");
                }
            }
            for prefix in found.prefixes {
                if is_closed(apps, &prefix) {
                    let text = "The upstream of this path is not carried over, so the path is not \
                                public.";
                    import.remark(&option, Grade::Lost, text);
                    continue;
                }
                let is_new = public.iter().all(|(known, ..)| *known != prefix);
                let is_app = apps.list.iter().any(|app| app.prefix == prefix);
                let app = app_of(apps, &prefix);
                match app {
                    Some(app) if is_new && !is_app => public.push((prefix, app, from.clone())),
                    Some(_) if is_app => {
                        import.remark(&option, Grade::Safe, NoPrefix::Everything.text());
                    }
                    Some(_) | None => {}
                }
            }
        }
    }
    public
}

/// Returns the app that gets the requests below a prefix.
fn app_of<'a>(apps: &'a Apps, prefix: &str) -> Option<&'a App> {
    let covers = |app: &&App| below(&app.prefix, prefix).is_some();
    let matching = apps.list.iter().filter(covers);
    matching.max_by_key(|app| app.prefix.len())
}

/// Returns true if the requests below a prefix belong to an upstream that is not carried over.
fn is_closed(apps: &Apps, prefix: &str) -> bool {
    let length = app_of(apps, prefix).map_or(0, |app| app.prefix.len());
    let closed = apps.closed.iter().map(|(closed, _)| closed);
    let mut closed = closed.filter(|closed| below(closed, prefix).is_some());
    closed.any(|closed| closed.len() >= length)
}

/// Returns the rest of a path below a prefix. The rest is empty or begins with `/`.
fn below<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    let own = prefix.strip_suffix('/').unwrap_or(prefix);
    let rest = path.strip_prefix(own);
    rest.filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Compares the hosts to which oauth2-proxy may return with the hosts of the gateway.
fn convert_return_hosts(import: &mut Import) {
    let from = import.written("whitelist-domain");
    if !import.list("whitelist-domain").is_empty() {
        let text = "After a sign-in, Sidegate returns only to the hosts in public_url. List each \
                    host there, and set login.host for one sign-in at all hosts.";
        import.remark(from, Grade::Lost, text);
    }
}

/// Writes the proxies that may ask for auth checks.
fn convert_auth_check(import: &mut Import, keeps_path: bool) {
    let (mut networks, _) = proxy_networks(import);
    let from = import.written("trusted-proxy-ip");
    if networks.is_empty() || !import.flag("reverse-proxy", false) {
        networks = vec!["127.0.0.1".to_owned()];
    }
    let upstream = import.written("upstream");
    if keeps_path {
        let text = "Your proxy can still ask at the path auth, such as /oauth2/auth. Write the \
                    addresses of your proxy into auth_check.oauth2_proxy. docs/auth-check.md \
                    describes the limits of this path.";
        import.remark(upstream, Grade::ToDo, text);
        import.set("auth_check.oauth2_proxy", Value::List(networks), from);
        return;
    }
    let text = "Sidegate answers this auth check at /_sidegate/auth, and only for the listed \
                networks. Change the configuration of your proxy as docs/auth-check.md describes, \
                and set the kind of your proxy.";
    import.remark(upstream, Grade::Changed, text);
    let lines = vec![
        ("networks".to_owned(), Value::List(networks), from),
        (
            "kind".to_owned(),
            Value::text(""),
            "CHANGE THIS: \"nginx\", \"traefik\" or another kind".to_owned(),
        ),
    ];
    import.document.add_table("[auth_check.proxies]", lines);
}
