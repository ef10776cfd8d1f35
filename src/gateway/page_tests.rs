use super::*;

#[test]
fn l_11_text_cannot_become_markup() {
    let mut page = Page::new(StatusCode::OK, "Title", "<script>'\"&\u{1b}")
        .link("Go", "/?a=\"><x")
        .link("A & <b>", "/b");
    page.refresh = Some((5, "/?a=\"><x".to_owned()));
    let html = page.html(Some("<id>"));
    assert!(html.contains("Request id: &lt;id&gt;</p>"), "{html}");
    assert!(html.contains(">A &amp; &lt;b&gt;</a>"), "{html}");
    assert!(
        html.contains("content=\"5;url=/?a=&quot;&gt;&lt;x\""),
        "{html}"
    );
    assert!(
        html.contains("&lt;script&gt;&#39;&quot;&amp;\u{fffd}"),
        "{html}"
    );
    assert!(html.contains("href=\"/?a=&quot;&gt;&lt;x\""), "{html}");
}

#[test]
fn l_11_the_values_for_a_script_cannot_become_markup() {
    let mut page = Page::new(StatusCode::OK, "Title", "Text");
    page.script = Some(Script {
        source: "fixed()",
        data: vec![("next", "/?a=\"><script>'".to_owned())],
        otherwise: Some("/?a=\"><x".to_owned()),
    });
    let html = page.html(None);
    let script = "<script data-next=\"/?a=&quot;&gt;&lt;script&gt;&#39;\">fixed()</script>";
    assert!(html.contains(script), "{html}");
    let refresh = "<noscript><meta http-equiv=\"refresh\" \
                   content=\"0;url=/?a=&quot;&gt;&lt;x\">\n</noscript>";
    assert!(html.contains(refresh), "{html}");
}

#[test]
fn programs_get_problem_details() {
    let mut page = Page::new(StatusCode::UNAUTHORIZED, "Sign in", "Please.").with_reason("x");
    page.login_url = Some("https://gw.test/oauth2/sign_in".to_owned());
    let response = page.respond(&HeaderMap::new());
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem: serde_json::Value = serde_json::from_str(&page.problem(None)).unwrap();
    assert_eq!(problem["login_url"], "https://gw.test/oauth2/sign_in");
    assert_eq!(problem["status"], 401);
}

#[test]
fn only_clients_that_accept_html_get_html() {
    let asks = |accept: &'static str| {
        let value = HeaderValue::from_static(accept);
        wants_html(&[(header::ACCEPT, value)].into_iter().collect())
    };
    assert!(asks("text/html,application/xhtml+xml,*/*;q=0.8"));
    assert!(asks("application/json, Text/HTML;q=0.1"));
    assert!(!asks("*/*") && !asks("application/json") && !asks("text/htmlx"));
}

#[test]
fn a_40_our_own_pages_cannot_be_framed_or_stored() {
    let response = Page::new(StatusCode::OK, "T", "t").respond(&HeaderMap::new());
    let headers = response.headers();
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"));
    assert_eq!(headers["cross-origin-opener-policy"], "same-origin");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["referrer-policy"], "same-origin");
}
