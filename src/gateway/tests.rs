use http::Request;

use super::*;

fn parts(method: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri("/");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn only_a_get_for_a_document_is_a_navigation() {
    let navigate = [
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert!(is_navigation(&parts("GET", &navigate)));
    assert!(is_navigation(&parts("GET", &[("accept", "text/html,*/*")])));
    for (method, fields) in [
        ("POST", &navigate[..]),
        ("HEAD", &navigate),
        (
            "GET",
            &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        ),
        (
            "GET",
            &[("sec-fetch-mode", "cors"), ("accept", "text/html")],
        ),
        (
            "GET",
            &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
        ),
        (
            "GET",
            &[
                ("sec-fetch-dest", "serviceworker"),
                ("sec-fetch-mode", "same-origin"),
            ],
        ),
        ("GET", &[("accept", "*/*")]),
        (
            "GET",
            &[
                ("accept", "text/html"),
                ("sec-purpose", "prefetch;prerender"),
            ],
        ),
        ("GET", &[("accept", "text/html"), ("purpose", "prefetch")]),
        ("GET", &[]),
    ] {
        assert!(
            !is_navigation(&parts(method, fields)),
            "{method} {fields:?}"
        );
    }
}

#[test]
fn a_redirect_is_a_303_that_is_not_stored() {
    let response = see_other("https://gw.test/", [HeaderValue::from_static("a=b")]);
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()["location"], "https://gw.test/");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["set-cookie"], "a=b");
}
