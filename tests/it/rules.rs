//! Rules of routes: which users the running gateway permits and refuses.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::browser::Browser;
use crate::support::scene::{Scene, url};

const TABLE: &str = include_str!("../data/rules.txt");

/// A row of the table of rules.
struct Row {
    text: &'static str,
    rule: &'static str,
    user: &'static str,
    claims: &'static str,
    status: u16,
}

fn rows() -> Vec<Row> {
    let rows = TABLE.lines().filter(|row| !row.starts_with('#'));
    let rows = rows.map(|text| {
        let [rule, user, claims, status] = text.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {text}");
        };
        let status = status.parse().unwrap();
        Row {
            text,
            rule,
            user,
            claims,
            status,
        }
    });
    rows.collect()
}

/// A browser with a session of the user, or without a session.
async fn browser(scene: &Scene, user: &str, claims: &str) -> Browser {
    if user == "-" {
        return scene.browser();
    }
    let claims: Value = serde_json::from_str(claims).unwrap();
    scene.provider.user_members(claims);
    scene.signed_in(user).await
}

#[tokio::test]
async fn every_row_of_the_table_of_rules_holds() {
    let rows = rows();
    let mut rules: Vec<&str> = rows.iter().map(|row| row.rule).collect();
    rules.dedup();
    let routes: Vec<String> = rules
        .iter()
        .enumerate()
        .map(|(number, rule)| format!("[[routes]]\nprefix = \"/rule/{number}\"\naccess = {rule}\n"))
        .collect();
    let routes = format!("[[routes]]\n{}", routes.concat());
    let scene = Scene::with_routes(&routes, "").await;
    // The rows with the same user and the same claims share a session.
    let mut by_user: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in &rows {
        by_user.entry((row.user, row.claims)).or_default().push(row);
    }
    let mut seen = BTreeMap::new();
    for ((user, claims), rows) in by_user {
        let browser = browser(&scene, user, claims).await;
        for row in rows {
            let number = rules.iter().position(|rule| *rule == row.rule).unwrap();
            let before = scene.app.count();
            let page = browser.fetch(&url(&format!("/rule/{number}/x"))).await;
            assert_eq!(page.status, row.status, "{}: {}", row.text, page.describe());
            let is_forwarded = scene.app.count() > before;
            assert_eq!(is_forwarded, row.status == 200, "{}", row.text);
            *seen.entry(row.status).or_insert(0) += 1;
        }
    }
    assert!(
        [(200, 15), (401, 5), (403, 40)]
            .iter()
            .all(|(status, least)| seen[status] >= *least),
        "{seen:?}"
    );
}
