//! A user at the pages of a real authorization server.

use url::Url;

use super::browser::{Browser, Page};
use super::form::{Form, forms};

/// The user who signs in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Person {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
}

/// A user who exists at every server of the tests.
pub(crate) const ALICE: Person = Person {
    name: "alice",
    password: "alice-password",
};

impl Person {
    /// Opens `url`, fills in the login form to which `url` leads, gives consent, and returns to the
    /// gateway. The result is the first page at the origin of `url` that is not a redirect.
    pub(crate) async fn sign_in(self, browser: &Browser, url: &str) -> Page {
        let start = browser.open(url).await;
        self.go_on(browser, start, url).await
    }

    /// Like [`Person::sign_in`], but starts at a page in the middle of a login. The result is the
    /// first page at the origin of `home`.
    pub(crate) async fn go_on(self, browser: &Browser, mut page: Page, home: &str) -> Page {
        let own = Url::parse(home).unwrap().origin();
        for _ in 0..30 {
            page = if page.status.is_redirection() {
                browser.follow(&page).await
            } else if page.url.origin() == own {
                return page;
            } else {
                self.answer(browser, &page).await
            };
        }
        panic!("the login did not end: {}", page.describe())
    }

    /// Fills in and sends the form of a page of another origin. A form without a password is sent
    /// unchanged: a consent form, or an answer by `form_post`, which a script of the page sends.
    async fn answer(self, browser: &Browser, page: &Page) -> Page {
        let all = forms(&page.text());
        let login = all.iter().find(|form| form.password_field().is_some());
        let Some(form) = login.or_else(|| all.first()) else {
            panic!("no form in {}", page.describe())
        };
        let filled: Vec<_> = [
            (form.user_field(), self.name),
            (form.password_field(), self.password),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field?, value)))
        .collect();
        let typed = if login.is_some() {
            filled.as_slice()
        } else {
            &[]
        };
        browser.submit(page, &agreed(form), typed).await
    }
}

/// The form with the button that gives consent, if there are several buttons.
fn agreed(form: &Form) -> Form {
    let mut form = form.clone();
    for field in &mut form.fields {
        if field.kind == "submit" && field.name == "allow" {
            "hidden".clone_into(&mut field.kind);
        }
    }
    form
}
