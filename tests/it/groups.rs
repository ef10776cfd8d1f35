//! Groups: rules compare whole names of all groups, and the field with the groups has a format and
//! a maximum length.

use serde_json::{Value, json};

use crate::support::browser_request::BrowserRequest;
use crate::support::scene::{Scene, url};

const ADMINS: &str = "CN=Admins,OU=Groups,DC=example,DC=com";
const LEFT_OUT: &str = "sidegate_groups_left_out_total{provider=\"main\"}";

/// Routes for one group each, and `/` for all signed-in users.
fn routes(groups: &[&str]) -> String {
    let route = |(number, group)| {
        format!("[[routes]]\nprefix = \"/{number}\"\naccess.any_of.groups = [\"{group}\"]\n")
    };
    let first = "[[routes]]\n".to_owned();
    let routes = groups.iter().enumerate().map(route);
    std::iter::once(first).chain(routes).collect()
}

/// Returns the values of the field with the groups after a login of a user with these groups.
async fn told(assertions: &str, groups: Value) -> (Vec<String>, Scene) {
    let scene = Scene::with_routes(&format!("[assertions]\n{assertions}\n"), "").await;
    scene.provider.user_members(json!({ "groups": groups }));
    scene.signed_in("alice").await;
    (scene.app.last().head.values("x-forwarded-groups"), scene)
}

#[tokio::test]
async fn rules_see_whole_names_of_all_groups() {
    let scene = Scene::with_routes(&routes(&[ADMINS, "g1100", "Admins", "CN=Admins"]), "").await;
    let mut groups: Vec<String> = (0..1200).map(|number| format!("g{number}")).collect();
    groups.push(ADMINS.to_owned());
    scene.provider.user_members(json!({ "groups": groups }));
    let browser = scene.signed_in("alice").await;
    for (path, status) in [("/0", 200), ("/1", 200), ("/2", 403), ("/3", 403)] {
        assert_eq!(browser.fetch(&url(path)).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_path_leads_into_a_list_of_objects() {
    let claim = "identity.claims.groups = \"org.groups[].name\"\n";
    let scene = Scene::with_routes(&routes(&["staff"]), claim).await;
    let groups = json!([{ "id": 1, "name": "staff" }, { "name": "b" }]);
    scene
        .provider
        .user_members(json!({ "org": { "groups": groups } }));
    let browser = scene.signed_in("alice").await;
    assert_eq!(browser.fetch(&url("/0")).await.status, 200);
    assert_eq!(
        scene.app.last().head.values("x-forwarded-groups"),
        ["staff,b"]
    );
}

#[tokio::test]
async fn the_field_with_the_groups_has_the_form_of_the_settings() {
    let groups = json!([ADMINS, "staff", "team 1"]);
    let (values, scene) = told("", groups.clone()).await;
    assert_eq!(values, ["staff,team 1"]);
    assert_eq!(scene.figure(LEFT_OUT).await, Some(1));
    let (values, scene) = told("groups_format = \"json\"", groups.clone()).await;
    let [json] = <[String; 1]>::try_from(values).unwrap();
    assert_eq!(json, format!("[\"{ADMINS}\",\"staff\",\"team 1\"]"));
    assert_eq!(scene.figure(LEFT_OUT).await, None);
    let (values, _scene) = told("groups_format = \"repeated\"", groups).await;
    assert_eq!(values, [ADMINS, "staff", "team 1"]);
    let many: Vec<String> = (100..400).map(|number| format!("team-{number}")).collect();
    let (values, scene) = told("groups_bytes = 18", json!(many)).await;
    assert_eq!(values, ["team-100,team-101"]);
    assert_eq!(scene.figure(LEFT_OUT).await, Some(298));
}

#[tokio::test]
async fn h_01_a_client_adds_nothing_to_repeated_fields() {
    let (values, scene) = told("groups_format = \"repeated\"", json!(["a", "b"])).await;
    assert_eq!(values, ["a", "b"]);
    let browser = scene.signed_in("alice").await;
    for name in ["X-Forwarded-Groups", "x_forwarded_groups"] {
        let forged = BrowserRequest::fetch(&url("/")).field(name, "admins");
        assert_eq!(browser.send(forged).await.status, 200);
        let head = scene.app.last().head;
        assert_eq!(head.values("x-forwarded-groups"), ["a", "b"], "{name}");
        assert_eq!(head.values("x_forwarded_groups"), [""; 0], "{name}");
    }
}
