//! Checks the setting `login.host` against the setting `public_url`.

use super::section::Reader;
use crate::login::{LoginHost, PublicUrl, PublicUrls};

/// Returns the login host. Reports a problem if the login host cannot sign users in for the hosts in
/// `served`.
pub(super) fn login_host(
    host: Option<&PublicUrl>,
    served: Option<&PublicUrls>,
    reader: &mut Reader<'_>,
) -> Option<LoginHost> {
    let served = served?;
    let Some(host) = host else {
        if served.have_wildcard() && reader.is_clean("login") {
            let reason = "a wildcard needs login.host, because no provider accepts a redirect URI \
                          for every host of a wildcard; set login.host to one origin of this list";
            reader.note("public_url", reason);
        }
        return None;
    };
    if !served.listed().any(|listed| listed == host) {
        let names: Vec<String> = served.names().collect();
        reader.note(
            "login.host",
            format!(
                "`{host}` is not one of the origins in public_url ({}); add it to that list, \
                 without a wildcard",
                names.join(", ")
            ),
        );
    } else if served.names().count() == 1 {
        let reason = "has no effect, because public_url has no other origin; remove login.host";
        reader.note("login.host", reason);
    }
    if let Some((one, other)) = served.same_host() {
        reader.note(
            "public_url",
            format!(
                "`{one}` and `{other}` contain the same host with different ports; browsers send a \
                 cookie to all ports of a host, so with login.host the sessions of these origins \
                 would replace each other"
            ),
        );
    }
    Some(LoginHost {
        url: host.clone(),
        served: served.clone(),
    })
}
