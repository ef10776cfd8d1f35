//! Fetches the groups of a user from lists, such as the organizations and teams of GitHub.
//!
//! A list is a JSON array of objects. A list can have several pages. The field `Link` of a page
//! contains the URL of the next page (RFC 8288).

use http::header::LINK;
use http::{HeaderMap, Uri};
use serde_json::Value;
use url::Url;

use super::claim_mapping::find;
use super::endpoint::Endpoint;
use super::settings::{GroupsEndpoint, IdentitySettings, IdentitySource};
use super::userinfo::{UserinfoError, read_list};
use super::{GrantError, SetupError};
use crate::identity::Claim;
use crate::token::TokenSet;

/// The maximum number of lists.
const MAX_LISTS: usize = 4;

/// The maximum number of pages of one list.
const MAX_PAGES: usize = 10;

/// The separator between the parts of a group name.
const SEPARATOR: char = '/';

/// One list of groups.
#[derive(Debug)]
pub(super) struct GroupList {
    endpoint: Endpoint,
    url: Url,
    name: Box<[Box<str>]>,
}

/// The groups of a user.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct ListedGroups {
    pub(super) groups: Vec<Claim>,
    /// The number of list entries that have no usable group name.
    pub(super) others: usize,
    /// True if a list has more pages than the gateway reads.
    pub(super) cut: bool,
}

/// Checks the settings of the lists of groups, and of the list of email addresses.
pub(super) fn check(settings: &IdentitySettings) -> Result<(), SetupError> {
    let (emails, groups) = ("identity.emails_endpoint", "identity.groups_endpoints");
    let lists = &settings.groups_endpoints;
    for (key, is_set) in [
        (emails, settings.emails_endpoint.is_some()),
        (groups, !lists.is_empty()),
    ] {
        if is_set && settings.source != IdentitySource::Userinfo {
            let problem = "is used only if identity.source is \"userinfo\"";
            return Err(SetupError::Setting { key, problem });
        }
    }
    let problem = if lists.len() > MAX_LISTS {
        "has more than 4 rows"
    } else if lists.iter().any(|list| list.name.is_empty()) {
        "has a row whose `name` is empty"
    } else {
        return Ok(());
    };
    let key = groups;
    Err(SetupError::Setting { key, problem })
}

impl GroupList {
    /// Creates the list of groups that the gateway fetches from `endpoint`. `url` must be the URL
    /// of `endpoint`.
    pub(super) fn new(endpoint: Endpoint, url: Url, settings: &GroupsEndpoint) -> Self {
        let name = settings.name.iter().map(|part| part.as_str().into());
        Self {
            endpoint,
            url,
            name: name.collect(),
        }
    }

    /// Returns the endpoint from which the gateway reads the list.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Adds the groups of all pages to `found`.
    async fn read(&self, tokens: &TokenSet, found: &mut ListedGroups) -> Result<(), GrantError> {
        let mut page = self.url.clone();
        for _page in 0..MAX_PAGES {
            let failed = |error| GrantError::Groups(page.as_str().into(), error);
            let uri: Uri = page
                .as_str()
                .parse()
                .map_err(|_invalid| failed(UserinfoError::NextPage))?;
            let response = self
                .endpoint
                .get_at(uri, "application/json", Some(tokens.bearer()))
                .await
                .map_err(|error| failed(UserinfoError::Call(error)))?;
            for entry in read_list(&response).map_err(failed)? {
                match self.group(&entry) {
                    Some(group) => found.groups.push(group),
                    None => found.others = found.others.saturating_add(1),
                }
            }
            match next_page(response.headers(), &page).map_err(failed)? {
                Some(next) => page = next,
                None => return Ok(()),
            }
        }
        found.cut = true;
        Ok(())
    }

    /// Returns the group name from a list entry.
    fn group(&self, entry: &Value) -> Option<Claim> {
        let members = entry.as_object()?;
        let mut parts = Vec::new();
        for path in &self.name {
            let part = find(members, path)?.as_str()?;
            // A part of a group name must not contain the separator. Otherwise the organization
            // `a/b` and the team `b` of the organization `a` would have the same group name.
            if part.is_empty() || part.contains(SEPARATOR) {
                return None;
            }
            parts.push(part);
        }
        Claim::new(&parts.join("/"))
    }
}

/// Fetches the group lists that the argument `lists` describes. Each request contains the access
/// token in `tokens`.
///
/// # Errors
///
/// Returns [`GrantError::Groups`] if a page cannot be read.
pub(super) async fn read(
    lists: &[GroupList],
    tokens: &TokenSet,
) -> Result<ListedGroups, GrantError> {
    let mut found = ListedGroups::default();
    for list in lists {
        list.read(tokens, &mut found).await?;
    }
    Ok(found)
}

/// Returns the URL of the next page of a list. The next page must have the same origin as `page`,
/// because the gateway sends the access token with its request for the next page.
fn next_page(headers: &HeaderMap, page: &Url) -> Result<Option<Url>, UserinfoError> {
    let values = headers.get_all(LINK).iter();
    let mut targets = values.filter_map(|value| next_target(value.to_str().ok()?));
    let Some(target) = targets.next() else {
        return Ok(None);
    };
    let next = page.join(target).ok();
    let next = next.filter(|next| next.origin() == page.origin() && next.fragment().is_none());
    next.map(Some).ok_or(UserinfoError::NextPage)
}

/// Returns the target of the link with the relation `next` (RFC 8288 section 3).
fn next_target(field: &str) -> Option<&str> {
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let (target, after) = rest.strip_prefix('<')?.split_once('>')?;
        let parameters = outside_quotes(after, ',').next().unwrap_or_default();
        let others = after.get(parameters.len()..).unwrap_or_default();
        if outside_quotes(parameters, ';').any(is_next) {
            return Some(target);
        }
        rest = others;
    }
}

/// Splits a text at each separator that is not in a quoted string.
fn outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |character| {
        quoted ^= character == '"';
        character == separator && !quoted
    })
}

/// Returns true if a parameter of a link contains the relation `next`.
fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
    name.trim().eq_ignore_ascii_case("rel")
        && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_the_link_with_the_relation_next() {
        for (field, next) in [
            ("<https://a/2>; rel=\"next\"", Some("https://a/2")),
            (
                "<https://a/1>; rel=\"prev\", <https://a/3>; rel=\"next\", <https://a/9>; rel=\"last\"",
                Some("https://a/3"),
            ),
            ("<?page=2,3>;rel=next", Some("?page=2,3")),
            (
                "<a>; title=\"x, <b>; rel=next\"; rel=prev,<c>; REL=\"last Next\"",
                Some("c"),
            ),
            ("<a>; rel=\"nextish\"", None),
            ("<a>; title=next", None),
            ("<a>", None),
            ("rel=next", None),
            ("<a; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_target(field), next, "{field}");
        }
    }

    #[test]
    fn a_page_at_another_origin_gets_no_token() {
        let page = Url::parse("https://api.test/user/teams?per_page=100").unwrap();
        let next = |target: &str| {
            let mut headers = HeaderMap::new();
            let field = format!("<{target}>; rel=\"next\"");
            headers.insert(LINK, field.parse().unwrap());
            next_page(&headers, &page).map(|next| next.map(String::from))
        };
        for (target, expected) in [
            (
                "https://api.test/user/7/teams?page=2",
                "https://api.test/user/7/teams?page=2",
            ),
            ("?page=2", "https://api.test/user/teams?page=2"),
            ("https://api.test:443/x", "https://api.test/x"),
        ] {
            assert_eq!(next(target).unwrap().as_deref(), Some(expected));
        }
        for other in [
            "https://evil.test/user/teams?page=2",
            "http://api.test/user/teams?page=2",
            "https://api.test:444/x",
            "//evil.test/x",
            "\\\\evil.test/x",
            "data:,x",
        ] {
            assert!(
                matches!(next(other), Err(UserinfoError::NextPage)),
                "{other}"
            );
        }
        assert!(matches!(next_page(&HeaderMap::new(), &page), Ok(None)));
    }
}
