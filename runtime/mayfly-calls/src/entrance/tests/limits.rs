//! Rates, places and ceilings: what lets a call in, and what a refusal leaves behind.

use super::*;

#[tokio::test]
async fn requests_per_minute_hold_at_each_level() {
    let few = limits(|limits| limits.requests_per_minute = Some(2));
    for place in [
        Place { tenant: few.clone(), ..Place::default() },
        Place { project: few.clone(), ..Place::default() },
        Place { deployment: few.clone(), ..Place::default() },
        Place { key: few.clone(), ..Place::default() },
    ] {
        let node = Node::new();
        let first = node.serve(place.call(), "", SCRIPT).await;
        assert_eq!(header(&first, "x-ratelimit-remaining-requests"), Some("1"));
        assert_eq!(header(&first, "ratelimit-policy"), Some(r#""requests";q=2;w=60"#));
        assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200);
        let third = node.serve(place.call(), "", SCRIPT).await;
        assert_eq!(header(&third, "x-ratelimit-remaining-requests"), Some("0"));
        let ms: u64 = header(&third, "retry-after-ms").unwrap().parse().unwrap();
        assert!((1..=30_000).contains(&ms), "{ms}");
        assert_eq!(header(&third, "retry-after"), Some(ms.div_ceil(1000).to_string().as_str()));
        assert_eq!((header(&third, "x-should-retry"), header(&third, "x-mayfly-retry-estimate")), (None, None));
        assert_eq!(error(third).await, (429, "rate_limited".to_owned()));
        assert_eq!(node.journal.ends().len(), 2, "who is refused at the door has no row");
        settled(&node).await;
        node.assert_empty(&place.call());
    }
}

#[tokio::test]
async fn without_limits_nothing_is_told_and_nothing_is_read() {
    let node = Node::new();
    let response = node.serve(Place::default().call(), "", SCRIPT).await;
    assert!(!response.headers().keys().any(|name| name.as_str().contains("ratelimit")));
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 0);
    assert_eq!(header(&response, "x-mayfly-cost"), Some("0.001"));
}

#[tokio::test]
async fn concurrency_is_refused_with_an_estimate() {
    let place = Place { key: limits(|limits| limits.concurrency = Some(1)), ..Place::default() };
    let node = Node::new();
    let inside = node.enter(&place.call(), "").await.unwrap();
    let away = node.enter(&place.call(), "").await.unwrap_err();
    assert_eq!((header(&away, "retry-after"), header(&away, "retry-after-ms")), (Some("1"), None));
    assert_eq!(header(&away, "x-mayfly-retry-estimate"), Some("true"));
    assert_eq!(error(away).await, (429, "rate_limited".to_owned()));
    drop(inside);
    assert!(node.enter(&place.call(), "").await.is_ok(), "a call that ends in any way makes room");
}

#[tokio::test]
async fn the_operators_ceilings_hold_without_any_limit() {
    let config = Config { calls_max: 3, calls_per_deployment_max: 2, ..Config::default() };
    let node = Node::with(config, Memory::working());
    let place = Place::default();
    let _one = node.enter(&place.call(), "").await.unwrap();
    let _two = node.enter(&place.call(), "").await.unwrap();
    let away = node.enter(&place.call(), "").await.unwrap_err();
    assert_eq!(error(away).await, (429, "rate_limited".to_owned()));
    node.entrance.door.stop();
    let away = node.enter(&place.call(), "").await.unwrap_err();
    assert_eq!(error(away).await, (503, "overloaded".to_owned()));
}

#[tokio::test]
async fn wakeups_are_limited_only_where_they_are_asked_for() {
    let place = Place { deployment: limits(|limits| limits.wakeups_per_minute = Some(1)), ..Place::default() };
    let node = Node::new();
    let enter = async |place: &Place, wakes| {
        let request = Request::new(full(Bytes::new()));
        node.entrance.enter(&place.call(), request, || wakes).await.map(drop).map_err(|away| away.failure.status())
    };
    assert_eq!(enter(&place, true).await, Ok(()));
    assert_eq!(enter(&place, true).await, Err(429));
    assert_eq!(enter(&place, false).await, Ok(()), "what is awake needs no waking");
}

#[tokio::test]
async fn tokens_per_minute_refuse_in_mid_call_and_say_when() {
    let place = Place { project: limits(|limits| limits.tokens_per_minute = Some(10)), ..Place::default() };
    let node = Node::new();
    let first = node.serve(place.call(), "", Script { tokens: 8, hold: 8, ..SCRIPT }).await;
    assert_eq!(header(&first, "x-ratelimit-remaining-tokens"), Some("2"));
    // One that passes the refusal on is told by the host; it has used nothing, so a retry is right.
    let refused = Script { tokens: 5, hold: 5, status: 500, ..SCRIPT };
    let second = node.serve(place.call(), "", refused).await;
    assert!(header(&second, "retry-after-ms").is_some());
    assert_eq!((header(&second, "x-should-retry"), header(&second, "x-mayfly-cost")), (None, Some("0")));
    assert_eq!(error(second).await, (429, "rate_limited".to_owned()));
    // One that has worked before would be charged again.
    let charged = Script { tokens: 6, hold: 1, status: 500, ..SCRIPT };
    let third = node.serve(place.call(), "", charged).await;
    assert_eq!((header(&third, "x-should-retry"), header(&third, "x-mayfly-cost")), (Some("false"), Some("0.002")));
    // What can never fit says so.
    let never = node.serve(place.call(), "", Script { tokens: 11, hold: 11, status: 500, ..SCRIPT }).await;
    assert_eq!(header(&never, "x-should-retry"), Some("false"));
    assert_eq!(header(&never, "retry-after"), None);
    assert_eq!(error(never).await, (400, "request_too_large_for_limit".to_owned()));
    settled(&node).await;
    node.assert_empty(&place.call());
}

#[tokio::test]
async fn a_hold_refused_at_any_level_leaves_all_levels_as_before() {
    let wide = limits(|limits| limits.tokens_per_minute = Some(1_000));
    let narrow = limits(|limits| limits.tokens_per_minute = Some(10));
    let wide_place =
        Place { tenant: wide.clone(), project: wide.clone(), deployment: wide.clone(), key: wide, ..Place::default() };
    for level in 0..4 {
        let mut place = wide_place.clone();
        *[&mut place.tenant, &mut place.project, &mut place.deployment, &mut place.key][level] = narrow.clone();
        let node = Node::new();
        let context = place.call();
        let entry = node.enter(&context, "").await.unwrap();
        let call = node.opener.open(&context, &Method::POST, "/", entry.ticket, None);
        let lines = |quantity| [Line { meter: Meter::OutputTokens, model: Some(model()), quantity }];
        let first = call.budget.hold(&lines(4)).await.unwrap();
        let before = call.budget.standing();
        assert!(call.budget.hold(&lines(7)).await.is_err());
        let after = call.budget.standing();
        let left = |standing: Option<Standing>| standing.unwrap().tokens.unwrap().remaining;
        assert_eq!(left(after), left(before), "level {level}");
        // All levels have room for exactly what is left at the narrow one, thrice over once it is given back.
        for _ in 0..3 {
            let hold = call.budget.hold(&lines(6)).await.unwrap();
            call.budget.release(hold);
        }
        call.budget.release(first);
        assert!(call.budget.hold(&lines(10)).await.is_ok(), "all of it was given back");
    }
}
