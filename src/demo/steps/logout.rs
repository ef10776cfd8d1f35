//! The last step of the check. The user signs out at the provider, and the provider tells the
//! gateway. The session at the gateway ends, too.

use http::StatusCode;

use super::mismatch::{StepResult, expect, missing_answer};
use super::{Steps, attribute, refused, summary};
use crate::demo::browser::BrowserRequest;
use crate::demo::check::TokenCalls;

impl<E: Fn() -> TokenCalls> Steps<'_, E> {
    pub(super) async fn logout(&mut self) -> StepResult {
        self.sign_in().await?;
        let at = |path| self.check.authorization_endpoint.join(path);
        let (home, logout) = (at("/"), at("/logout"));
        let home = home.map_err(|_invalid| missing_answer())?;
        let logout = logout.map_err(|_invalid| missing_answer())?;
        let page = self.send(BrowserRequest::navigation(&home)).await?;
        let token = attribute(&page.body, "name=\"_token\"", "value").ok_or_else(missing_answer)?;
        let fields = [("_token", token.as_str())];
        let page = self.send(BrowserRequest::form(&logout, &fields)).await?;
        expect(
            page.status == StatusCode::SEE_OTHER,
            "status 303 after the sign-out at the provider",
            || summary(&page),
        )?;
        let request = BrowserRequest::fetch(&self.at("/whoami")?);
        refused(&self.send(request).await?)
    }
}
