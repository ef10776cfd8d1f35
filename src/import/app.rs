//! Converts the upstreams.

use url::Url;

use super::convert::{Import, seconds};
use super::document::Value;
use super::{Grade, alpha, skip};

/// An app behind the gateway.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// The name of the upstream. The name is empty if the routes only answer auth checks.
    pub(super) name: String,
    pub(super) prefix: String,
    /// The prefix of the route as the app knows it, if this prefix differs.
    pub(super) new_prefix: Option<String>,
    /// False if the app must not switch to WebSocket.
    pub(super) websockets: bool,
    /// The keys of the upstream, or of the route for auth checks, with the names of their options.
    pub(super) keys: Vec<(String, Value, String)>,
    /// The name of the option.
    pub(super) from: String,
}

/// The apps, and whether another proxy asks for auth checks.
#[derive(Clone, Debug)]
pub(super) struct Apps {
    pub(super) list: Vec<App>,
    /// The prefixes of the upstreams without an app, each with the name of its option. An app with
    /// a shorter prefix must not get the requests below these prefixes.
    pub(super) closed: Vec<(String, String)>,
    /// True if oauth2-proxy forwards no request, because it only answers another proxy.
    pub(super) only_checks: bool,
    /// True if the other proxy can still ask at the path of oauth2-proxy.
    pub(super) keeps_auth_path: bool,
}

/// An upstream of oauth2-proxy, from a flag or from the alpha configuration.
struct Source {
    uri: String,
    path: String,
    new_prefix: Option<String>,
    pass_host: bool,
    websockets: bool,
    timeout: Option<String>,
    /// The names of the options: the upstream, its host, its timeout.
    from: [String; 3],
}

/// The result for one upstream.
enum Found {
    App(App),
    /// The upstream answers with a fixed status. Without an app, such an upstream serves auth checks.
    /// The values are the prefix and the name of the option.
    Static(String, String),
    /// Sidegate cannot forward requests to the upstream. The values are the prefix and the name of
    /// the option.
    Closed(String, String),
}

pub(super) fn apps(import: &mut Import) -> Apps {
    let mut closed = Vec::new();
    let sources = sources(import, &mut closed);
    let is_empty = sources.is_empty() && closed.is_empty();
    let mut found = Apps {
        list: Vec::new(),
        closed,
        only_checks: false,
        keeps_auth_path: false,
    };
    let mut fixed = Vec::new();
    for source in sources {
        match convert(import, source, &found.list) {
            Found::App(app) => found.list.push(app),
            Found::Static(prefix, from) => fixed.push((prefix, from)),
            Found::Closed(prefix, from) => found.closed.push((prefix, from)),
        }
    }
    let has_other = !found.list.is_empty() || !found.closed.is_empty();
    found.only_checks = !has_other && (is_empty || !fixed.is_empty());
    if has_other {
        close(import, fixed, &mut found.closed);
    }
    found.keeps_auth_path = found.only_checks && can_keep_auth_path(import);
    if found.list.is_empty() {
        let url = Value::text("http://127.0.0.1:8080");
        let url = (
            "url".to_owned(),
            url,
            "CHANGE THIS: the address of the app".to_owned(),
        );
        // A route for auth checks has no app.
        let name = if found.only_checks { "" } else { "app" };
        found.list.push(App {
            name: name.to_owned(),
            prefix: "/".to_owned(),
            new_prefix: None,
            websockets: true,
            keys: Some(url)
                .into_iter()
                .filter(|_| !found.only_checks)
                .collect(),
            from: import.written("upstream"),
        });
    }
    found
}

/// Closes the prefixes of upstreams with a fixed answer beside other upstreams.
fn close(import: &mut Import, fixed: Vec<(String, String)>, closed: &mut Vec<(String, String)>) {
    for (prefix, from) in fixed {
        let text = "The import does not convert a fixed answer. The path gets the status 404. Write \
                    the answer into `answer` of the route.";
        import.remark(&from, Grade::Lost, text);
        closed.push((prefix, from));
    }
}

/// Returns true if an auth check at the path of oauth2-proxy can have the same answer. At this path,
/// Sidegate sends no tokens, no passwords and no fields with other names, and permits no request
/// without a session.
fn can_keep_auth_path(import: &Import) -> bool {
    let credentials = [
        "set-authorization-header",
        "set-basic-auth",
        "pass-access-token",
    ];
    let sends_credentials = credentials.iter().any(|name| import.flag(name, false));
    let mut public = ["skip-auth-route", "skip-auth-regex"].into_iter();
    let has_public = public.any(|name| !import.list(name).is_empty());
    !sends_credentials && !has_public && import.given.alpha.response_headers.is_empty()
}

/// Returns the upstreams. Adds the prefix of an upstream that no route can express to `closed`.
fn sources(import: &mut Import, closed: &mut Vec<(String, String)>) -> Vec<Source> {
    let from = [
        import.written("upstream"),
        import.written("pass-host-header"),
        import.written("upstream-timeout"),
    ];
    let mut sources = Vec::new();
    for uri in import.list("upstream") {
        sources.push(Source {
            path: path_of(&uri),
            uri,
            new_prefix: None,
            pass_host: import.flag("pass-host-header", true),
            websockets: import.flag("proxy-websockets", true),
            timeout: import.text("upstream-timeout").map(|(text, _)| text),
            from: from.clone(),
        });
    }
    for upstream in std::mem::take(&mut import.given.alpha.upstreams) {
        let prefix = literal_prefix(&upstream.path);
        let from = format!("upstream {}", upstream.id);
        match of_alpha(import, upstream) {
            Some(source) => sources.push(source),
            None => closed.push((prefix, from)),
        }
    }
    sources
}

/// Returns the path at which oauth2-proxy serves the upstream of a flag. The path of a folder can
/// follow `#`. The path of a Unix socket can follow a colon.
fn path_of(uri: &str) -> String {
    let url = Url::parse(uri).ok();
    let path = url.as_ref().and_then(|url| match url.scheme() {
        "file" => Some(url.fragment().unwrap_or_else(|| url.path())),
        "unix" => url.path().split_once(':').map(|(_socket, path)| path),
        _ => Some(url.path()),
    });
    let path = path.filter(|path| path.starts_with('/'));
    path.unwrap_or("/").to_owned()
}

/// Returns the literal start of a path or of a regular expression, up to its last `/`. The start is
/// the longest prefix that certainly contains all paths of the upstream.
fn literal_prefix(path: &str) -> String {
    let text = path.strip_prefix('^').unwrap_or(path);
    let is_literal = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
    let end = text.find(|c| !is_literal(c)).unwrap_or(text.len());
    let start = text.get(..end).unwrap_or_default();
    match start.rfind('/') {
        Some(slash) if text.starts_with('/') && !path.contains('|') => {
            start.get(..=slash).unwrap_or("/").to_owned()
        }
        Some(_) | None => "/".to_owned(),
    }
}

/// Converts an upstream of the alpha configuration.
fn of_alpha(import: &mut Import, upstream: alpha::Upstream) -> Option<Source> {
    let from = format!("upstream {}", upstream.id);
    if upstream.insecure_skip_tls_verify {
        let text = "Sidegate always verifies the certificate of an https app. Name the certificate \
                    authority with ca_file of the upstream.";
        import.remark(&from, Grade::Safe, text);
    }
    if upstream.disable_keep_alives {
        let text = "Sidegate keeps unused connections open for idle_timeout_secs of the upstream.";
        import.remark(&from, Grade::Lost, text);
    }
    let uri = if upstream.is_static {
        format!("static://{}", upstream.static_code.unwrap_or(200))
    } else {
        upstream.uri
    };
    let Some((path, new_prefix)) = mount(&upstream.path, &upstream.rewrite_target) else {
        let text = "A route has a path prefix, and rewrite.app_prefix can replace the whole prefix. \
                    The import cannot express this path and this rewriteTarget.";
        import.remark(&from, Grade::Lost, text);
        return None;
    };
    Some(Source {
        uri,
        path,
        new_prefix,
        pass_host: upstream.pass_host_header.unwrap_or(true),
        websockets: upstream.proxy_web_sockets.unwrap_or(true),
        timeout: upstream.timeout,
        from: [from.clone(), from.clone(), from],
    })
}

/// Returns the path prefix of an upstream, and the prefix as the app knows it. Returns `None` if a
/// route cannot express the path.
fn mount(path: &str, rewrite_target: &str) -> Option<(String, Option<String>)> {
    let is_pattern = path.contains(['^', '$', '(', '*']);
    if !is_pattern && rewrite_target.is_empty() {
        return Some((path.to_owned(), None));
    }
    if rewrite_target.is_empty() {
        let found = skip::expression_to_prefixes(path).ok()?;
        let [prefix] = &*found.prefixes else {
            return None;
        };
        let is_exact = found.difference.is_none();
        return is_exact.then(|| (prefix.clone(), None));
    }
    // `^/baz/(.*)$` with the target `/foo/$1`.
    let prefix = path.strip_prefix('^')?.strip_suffix("(.*)$")?;
    let target = rewrite_target.strip_suffix("$1")?;
    let is_literal = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    let is_plain =
        |text: &str| text.starts_with('/') && text.ends_with('/') && text.chars().all(is_literal);
    (is_plain(prefix) && is_plain(target)).then(|| (prefix.to_owned(), Some(target.to_owned())))
}

fn convert(import: &mut Import, source: Source, before: &[App]) -> Found {
    let [from, host_from, timeout_from] = source.from;
    let (scheme, rest) = source.uri.split_once("://").unwrap_or(("", &source.uri));
    match scheme {
        "http" | "https" => {}
        "static" => return Found::Static(source.path, from),
        "file" if rest == "/dev/null" => return Found::Static(source.path, from),
        "file" => {
            let text = "Sidegate serves no folder of files. Let a web server serve the files, and \
                        write its address into `url` of an upstream.";
            import.remark(&from, Grade::Lost, text);
            return Found::Closed(source.path, from);
        }
        _ => {
            let text = "Sidegate forwards requests to a host and a port. Make the app listen on a \
                        loopback address.";
            import.remark(&from, Grade::Lost, text);
            return Found::Closed(source.path, from);
        }
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let url = format!("{scheme}://{authority}");
    if !source.path.ends_with('/') {
        let text = "oauth2-proxy forwards only the path itself. A route has a path prefix, so the \
                    route also forwards the paths below.";
        import.remark(&from, Grade::Changed, text);
    }
    let mut keys = vec![("url".to_owned(), Value::Text(url), from.clone())];
    if !source.pass_host {
        keys.push(("preserve_host".to_owned(), Value::Flag(false), host_from));
    }
    match source.timeout.as_deref().map(seconds) {
        Some(Some(timeout @ 1..=604_800)) => {
            let key = "response_timeout_secs".to_owned();
            keys.push((key, Value::Number(timeout), timeout_from));
        }
        Some(Some(_) | None) => {
            let text = "response_timeout_secs of the upstream is between one second and one week.";
            import.remark(timeout_from, Grade::Lost, text);
        }
        None => {}
    }
    Found::App(App {
        name: name(&source.path, before),
        prefix: source.path,
        new_prefix: source.new_prefix,
        websockets: source.websockets,
        keys,
        from,
    })
}

/// Returns a name for an upstream that no other upstream has.
fn name(path: &str, before: &[App]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let first = path.split('/').find(|segment| !segment.is_empty());
    let first = first.filter(|segment| segment.chars().all(is_plain));
    let base = first.unwrap_or("app").to_ascii_lowercase();
    let is_free = |name: &String| before.iter().all(|app| app.name != *name);
    let numbered = (2..).map(|number: u32| format!("{base}{number}"));
    let mut names = std::iter::once(base.clone()).chain(numbered);
    names.find(is_free).unwrap_or(base)
}
