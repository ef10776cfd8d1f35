//! Tests that no refresh is sent if the breaker is open, if the limit of concurrent calls is
//! reached, or if the rate limit is reached.

use super::*;

#[tokio::test]
async fn g_07_repeated_failures_open_the_breaker() {
    let answers = std::iter::repeat_n(failed("502 Bad Gateway"), 11);
    let granted = std::iter::repeat_n(granted(&value!({})), 3);
    let mut server = Server::start(answers.chain(granted)).await;
    let provider = plain(&server.url, "");
    let clock = Clock::manual(NOW);
    let wait = async |expected: (u64, u64)| {
        let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
        let left_alone = (Verdict::Temporary, "provider_left_alone");
        assert_eq!(seen(&unrefreshed), left_alone);
        assert!((unrefreshed.error.class().sent == Sent::Nothing));
        let wait = unrefreshed.error.class().retry_after.unwrap();
        let expected = Duration::from_secs(expected.0)..=Duration::from_secs(expected.1);
        assert!(expected.contains(&wait), "{wait:?}");
        wait
    };
    for _ in 0..10 {
        let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
        assert_eq!(unrefreshed.error.reason(), "provider_unavailable");
        server.next();
    }
    let first = wait((1, 2)).await;
    assert!(server.has_no_more());
    clock.advance(first);
    // The provider still fails.
    assert!(refresh(&provider, &clock).await.is_err());
    server.next();
    let second = wait((2, 4)).await;
    clock.advance(second);
    for _ in 0..3 {
        assert!(refresh(&provider, &clock).await.is_ok());
        server.next();
    }
}

#[tokio::test]
async fn a_successful_login_closes_the_breaker() {
    let answers = std::iter::repeat_n(failed("502 Bad Gateway"), 10);
    let granted = std::iter::repeat_n(granted(&value!({})), 2);
    let server = Server::start(answers.chain(granted)).await;
    let provider = plain(&server.url, "");
    let clock = Clock::manual(NOW);
    for _ in 0..10 {
        assert!(refresh(&provider, &clock).await.is_err());
    }
    let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
    assert_eq!(unrefreshed.error.reason(), "provider_left_alone");
    assert!(redeem_at(&provider, &clock).await.is_ok());
    assert!(refresh(&provider, &clock).await.is_ok());
}

#[tokio::test]
async fn an_open_breaker_refuses_before_the_wait_for_a_call_slot() {
    let server = Server::start(std::iter::repeat_n(failed("502 Bad Gateway"), 10)).await;
    let provider = plain(&server.url, "concurrent_calls = 1\ndeadline_secs = 1");
    let clock = Clock::manual(NOW);
    for _ in 0..10 {
        assert!(refresh(&provider, &clock).await.is_err());
    }
    let held = provider
        .call_slot(GrantType::AuthorizationCode, NonZeroU32::MIN)
        .await;
    let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
    assert_eq!(unrefreshed.error.reason(), "provider_left_alone");
    drop(held);
}

#[tokio::test]
async fn a_refusal_resets_the_breaker() {
    let failures = std::iter::repeat_n(failed("502 Bad Gateway"), 9);
    let refusal = std::iter::once(refused("invalid_grant"));
    let server = Server::start(failures.clone().chain(refusal).chain(failures)).await;
    let provider = plain(&server.url, "");
    for _ in 0..19 {
        let unrefreshed = refresh(&provider, &Clock::manual(NOW)).await.unwrap_err();
        assert!(
            !(unrefreshed.error.class().sent == Sent::Nothing),
            "{unrefreshed:?}"
        );
    }
}

#[tokio::test]
async fn retry_after_is_respected() {
    let answers = [
        failed("503 Service Unavailable\r\nretry-after: 37"),
        granted(&value!({})),
        failed("429 Too Many Requests\r\nretry-after: 37"),
        granted(&value!({})),
        granted(&value!({})),
    ];
    let mut server = Server::start(answers).await;
    let provider = plain(&server.url, "");
    let clock = Clock::manual(NOW);
    let wait = Some(Duration::from_secs(37));
    for throttled in [false, true] {
        let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
        assert_eq!(unrefreshed.error.class().retry_after, wait);
        server.next();
        let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
        assert_eq!(unrefreshed.verdict, Verdict::Temporary);
        assert_eq!(unrefreshed.error.class().retry_after, wait);
        if throttled {
            // The status 429 also stops logins.
            let error = redeem_at(&provider, &clock).await.unwrap_err();
            assert_eq!(error.reason(), "token_calls_limited");
        }
        assert!(server.has_no_more());
        clock.advance(Duration::from_secs(37));
        assert!(refresh(&provider, &clock).await.is_ok());
        server.next();
    }
}

#[tokio::test]
async fn d_26_refreshes_leave_calls_for_logins() {
    let mut server = Server::start(std::iter::repeat_n(granted(&value!({})), 5)).await;
    let provider = plain(&server.url, "token_calls_per_minute = 5");
    let clock = Clock::manual(NOW);
    for _ in 0..4 {
        assert!(refresh(&provider, &clock).await.is_ok());
        server.next();
    }
    let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
    let limited = (Verdict::Temporary, "token_calls_limited");
    assert_eq!(seen(&unrefreshed), limited);
    assert_eq!(
        unrefreshed.error.class().retry_after,
        Some(Duration::from_mins(1))
    );
    assert!(server.has_no_more());
    assert!(redeem_at(&provider, &clock).await.is_ok());
}

#[tokio::test]
async fn a_call_that_the_limiter_refuses_is_no_probe_of_the_breaker() {
    let server = Server::start(std::iter::repeat_n(failed("502 Bad Gateway"), 10)).await;
    // The limit of 13 calls allows ten refreshes, because three calls are reserved for logins.
    let provider = plain(&server.url, "token_calls_per_minute = 13");
    let clock = Clock::manual(NOW);
    for _ in 0..10 {
        assert!(refresh(&provider, &clock).await.is_err());
    }
    let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
    assert_eq!(unrefreshed.error.reason(), "provider_left_alone");
    clock.advance(unrefreshed.error.class().retry_after.unwrap());
    for _ in 0..2 {
        let unrefreshed = refresh(&provider, &clock).await.unwrap_err();
        assert_eq!(unrefreshed.error.reason(), "token_calls_limited");
    }
}

#[tokio::test]
async fn a_refresh_whose_lease_may_be_over_is_not_sent() {
    let mut server = Server::start([granted(&value!({}))]).await;
    let clock = Clock::manual(NOW);
    let provider = plain(&server.url, "");
    let (tokens, identity) = (before(), Identity::nameless("op"));
    // The process was stopped after it got the lease.
    let late = RefreshRequest {
        latest: clock
            .instant()
            .checked_sub(Duration::from_millis(1))
            .unwrap(),
        ..request(&tokens, &identity, &clock)
    };
    let unrefreshed = provider.refresh(&late, &clock).await.unwrap_err();
    assert_eq!(seen(&unrefreshed), (Verdict::Temporary, "provider_busy"));
    assert!((unrefreshed.error.class().sent == Sent::Nothing));
    assert!(server.has_no_more());
    assert!(refresh(&provider, &clock).await.is_ok());
    assert_eq!(server.next().line(), "POST /t HTTP/1.1");
}
