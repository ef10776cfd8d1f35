import re
p='tests/it/refused_tokens.rs'
s=open(p).read()
a=s.index("async fn a_grant_that_has_ended_leads_to_a_login_at_once()"); 
t=s[a:]
t=t.replace('''    let gone = Answer::with(
        400,
        &[("Content-Type", "application/json")],
        "{\\"error\\":\\"invalid_grant\\"}",
    );
    scene.provider.refuse_refreshes(Some(gone));
''','''    let gone = || {
        Answer::with(
            400,
            &[("Content-Type", "application/json")],
            "{\\"error\\":\\"invalid_grant\\"}",
        )
    };
    scene.provider.refuse_refreshes(Some(gone()));
''',1)
t=t.replace('''    assert_eq!((page.text().as_str(), page.url.path()), ("seen", "/a"));
}
''','''    assert_eq!((page.text().as_str(), page.url.path()), ("seen", "/a"));

    // It is the grant that has ended, whatever made somebody ask.
    let browser = with_revoked_token(&scene).await;
    scene.provider.refuse_refreshes(Some(gone()));
    let page = browser.fetch(&url("/a")).await;
    assert_eq!(page.status, 401, "{}", page.describe());
    assert_eq!(page.json()["reason"], "grant_ended");
}
''',1)
open(p,'w').write(s[:a]+t)
