//! Tests the requests for the userinfo and the metadata.

use serde_json::json as value;

use super::*;
use crate::provider::issuer::Issuer;
use crate::provider::metadata;
use crate::provider::userinfo::{fetch, fetch_email};

fn at(server: &Server) -> Endpoint {
    let url = endpoint("x", Some(&server.url), "/me").unwrap();
    plain_endpoint("x", &url)
}

fn grant() -> TokenSet {
    TokenSet::new("abc+/=~", None, Lifetime::default()).unwrap()
}

const USER_AGENT_NAME: &str = concat!("sidegate/", env!("CARGO_PKG_VERSION"));

#[tokio::test]
async fn the_access_token_can_be_sent_in_a_form() {
    let user = answer("200 OK", "application/json", "{\"sub\":\"1\"}");
    let mut server = Server::start([user]).await;
    let read = fetch(&at(&server), &grant(), UserinfoBearer::Body).await;
    assert!(matches!(read, Ok(Userinfo::Json(_))));
    let request = server.next();
    assert_eq!(request.line(), "POST /me HTTP/1.1");
    assert_eq!(
        request.field("content-type"),
        ["application/x-www-form-urlencoded"]
    );
    assert!(request.field("authorization").is_empty());
    assert_eq!(request.body, "access_token=abc%2B%2F%3D%7E");
    assert_eq!(request.field("user-agent"), [USER_AGENT_NAME]);
    assert!(!request.head.contains("abc"));
}

#[tokio::test]
async fn the_access_token_is_sent_in_the_authorization_field() {
    let jwt = answer("200 OK", "application/jwt", "e30.e30.");
    let mut server = Server::start([jwt]).await;
    let read = fetch(&at(&server), &grant(), UserinfoBearer::Header).await;
    assert!(matches!(read, Ok(Userinfo::Signed(_))));
    let request = server.next();
    assert_eq!(request.line(), "GET /me HTTP/1.1");
    assert_eq!(request.field("authorization"), ["Bearer abc+/=~"]);
    assert!(request.body.is_empty());
}

#[tokio::test]
async fn the_email_list_is_fetched_with_the_access_token() {
    let list = value!([{ "email": "a@b", "primary": true, "verified": true }]);
    let mut server = Server::start([answer("200 OK", "application/json", &list.to_string())]).await;
    let email = fetch_email(&at(&server), &grant()).await.unwrap().unwrap();
    assert_eq!(email.address.as_str(), "a@b");
    let request = server.next();
    assert_eq!(request.line(), "GET /me HTTP/1.1");
    assert_eq!(request.field("authorization"), ["Bearer abc+/=~"]);
    assert_eq!(request.field("user-agent"), [USER_AGENT_NAME]);
}

#[tokio::test]
async fn d_31_an_endless_email_list_is_cut_off() {
    let entry = value!({ "email": "a@b", "primary": true, "verified": true }).to_string();
    let list = format!("[{}{entry}]", format!("{entry},").repeat(30_000));
    let server = Server::start([answer("200 OK", "application/json", &list)]).await;
    let error = fetch_email(&at(&server), &grant()).await.unwrap_err();
    assert!(chain(&error).contains("too large"), "{}", chain(&error));
}

#[tokio::test]
async fn metadata_is_fetched_without_credentials() {
    let settings = value!({ "client_id": "3", "issuer": "https://id.example" });
    let settings: Settings = serde_json::from_value(settings).unwrap();
    let issuer = Issuer::new(&settings).unwrap().unwrap();
    let rules = metadata::Rules {
        issuer: &issuer,
        internal_url: None,
        settings: &settings,
    };
    let body = value!({ "issuer": "https://id.example" }).to_string();
    let mut server = Server::start([answer("200 OK", "application/json", &body)]).await;
    assert!(metadata::fetch(&at(&server), rules).await.is_ok());
    let request = server.next();
    assert_eq!(request.line(), "GET /me HTTP/1.1");
    assert_eq!(request.field("accept"), ["application/json"]);
    assert_eq!(request.field("user-agent"), [USER_AGENT_NAME]);
    assert!(request.field("authorization").is_empty());
    let gone = Server::start([]).await;
    let error = metadata::fetch(&at(&gone), rules).await.unwrap_err();
    assert_eq!(error.reason(), "metadata_unreachable");
}
