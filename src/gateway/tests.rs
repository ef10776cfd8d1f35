use super::*;

#[test]
fn a_redirect_is_a_303_that_is_not_stored() {
    let response = see_other("https://gw.test/", [HeaderValue::from_static("a=b")]);
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()["location"], "https://gw.test/");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["set-cookie"], "a=b");
}
