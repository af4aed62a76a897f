//! The same request again: answered once, run once, billed once.

use super::*;

#[tokio::test]
async fn the_same_request_again_is_the_same_answer_for_nothing() {
    let place = Place::default();
    let node = Node::new();
    let first = node.serve(once(&place, "k1"), "body", SCRIPT).await;
    assert_eq!((header(&first, "x-mayfly-replayed"), header(&first, "x-mayfly-cost")), (None, Some("0.001")));
    assert_eq!(text(first).await, "hello");
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "body", Script { body: "another", ..SCRIPT }).await;
    assert_eq!((header(&again, "x-mayfly-replayed"), header(&again, "x-mayfly-cost")), (Some("true"), Some("0")));
    assert_eq!((header(&again, "x-own"), header(&again, "x-mayfly-usage")), (Some("1"), Some("{}")));
    assert_eq!((header(&again, "x-mayfly-cold"), header(&again, "content-length")), (Some("none"), Some("5")));
    assert_eq!(text(again).await, "hello");
    let ends = node.journal.ends();
    assert_eq!((ends.len(), ends[1].outcome, ends[1].kind), (2, Some(Outcome::Replayed), Kind::Void));
    assert!(ends[1].lines.is_empty() && ends[0].call.id != ends[1].call.id);
    assert_eq!(node.journal.spent(), money("0.001"));
}

#[tokio::test]
async fn while_the_first_runs_the_second_waits_its_turn() {
    let place = Place::default();
    let node = Node::new();
    let entry = node.enter(&once(&place, "k1"), "body").await.unwrap();
    let away = node.enter(&once(&place, "k1"), "body").await.unwrap_err();
    assert_eq!(header(&away, "retry-after"), Some("1"));
    assert_eq!(error(away).await, (409, "idempotency_in_progress".to_owned()));
    let away = node.enter(&once(&place, "k1"), "other").await.unwrap_err();
    assert_eq!(error(away).await, (422, "idempotency_mismatch".to_owned()));
    // However the first ends, its entry goes.
    drop(entry);
    assert!(node.enter(&once(&place, "k1"), "other").await.is_ok());
}

#[tokio::test]
async fn another_body_is_refused_and_another_scope_is_another_call() {
    let place = Place::default();
    let node = Node::new();
    drop(text(node.serve(once(&place, "k1"), "body", SCRIPT).await).await);
    settled(&node).await;
    let other = node.serve(once(&place, "k1"), "other", SCRIPT).await;
    assert_eq!(header(&other, "x-should-retry"), Some("false"));
    assert_eq!(error(other).await, (422, "idempotency_mismatch".to_owned()));
    // Another tenant's key with the same text, another user, another path, another method.
    let mut foreign = once(&place, "k1");
    foreign.key = Arc::new(mayfly_registry::Key {
        id: mayfly_types::KeyId::from_bytes([9; 16]),
        tenant: Some(mayfly_types::TenantId::from_bytes([9; 16])),
        ..(*foreign.key).clone()
    });
    let user = Context { end_user: Some("anna".into()), ..once(&place, "k1") };
    let mut path = once(&place, "k1");
    path.idempotency.as_mut().unwrap().target.push_str("?x=1");
    for context in [foreign, user, path, once(&place, "k2")] {
        let response = node.serve(context, "body", Script { body: "fresh", ..SCRIPT }).await;
        assert_eq!(header(&response, "x-mayfly-replayed"), None);
        assert_eq!(text(response).await, "fresh");
        settled(&node).await;
    }
    let context = once(&place, "k1");
    let wanted = context.idempotency.clone().unwrap();
    assert_ne!(scope(&context, &Method::POST, &wanted), scope(&context, &Method::PUT, &wanted));
}

#[tokio::test]
async fn an_answer_too_long_to_keep_is_never_billed_twice() {
    let place = Place::default();
    let node = Node::with(Config { idempotent_answer_bytes_max: 4, ..Config::default() }, Memory::working());
    let first = node.serve(once(&place, "k1"), "", SCRIPT).await;
    let id = header(&first, "x-request-id").unwrap().to_owned();
    assert_eq!(text(first).await, "hello");
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "", SCRIPT).await;
    assert_eq!((again.status().as_u16(), header(&again, "x-should-retry")), (409, Some("false")));
    let text = text(again).await;
    assert!(text.contains("idempotency_not_kept") && text.contains(&id), "{text}");
    assert_eq!((node.journal.ends().len(), node.journal.spent()), (1, money("0.001")));
}

#[tokio::test]
async fn a_streamed_answer_is_kept_as_far_as_it_fits() {
    for (most, status) in [(5, 200), (4, 409)] {
        let place = Place::default();
        let config = Config { short_answer_bytes_max: 0, idempotent_answer_bytes_max: most, ..Config::default() };
        let node = Node::with(config, Memory::working());
        let stream = Script { pause_ms: 150, ..SCRIPT };
        assert_eq!(text(node.serve(once(&place, "k1"), "", stream).await).await, "hello");
        settled(&node).await;
        assert!(node.journal.kinds().contains(&Kind::Open), "it was streamed");
        let again = node.serve(once(&place, "k1"), "", stream).await;
        assert_eq!(again.status(), status);
        if status == 200 {
            assert_eq!(text(again).await, "hello");
        }
    }
}

#[tokio::test]
async fn a_call_that_was_charged_and_broke_is_not_run_again() {
    let node = Node::new();
    let place = Place::default();
    let left = node.serve(once(&place, "k1"), "", Script { tokens: 3, pause_ms: 5_000, ..SCRIPT }).await;
    drop(left);
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "", SCRIPT).await;
    assert_eq!(error(again).await, (409, "idempotency_not_kept".to_owned()));
    // One that owes nothing may run again.
    let left = node.serve(once(&place, "k2"), "", Script { tokens: 0, pause_ms: 5_000, ..SCRIPT }).await;
    drop(left);
    settled(&node).await;
    assert_eq!(text(node.serve(once(&place, "k2"), "", SCRIPT).await).await, "hello");
}

#[tokio::test]
async fn a_call_the_host_lost_runs_again() {
    let node = Node::with(Config::default(), Memory::new(0..1, 1_000));
    let place = Place::default();
    assert_eq!(node.serve(once(&place, "k1"), "", SCRIPT).await.status(), 507);
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "", SCRIPT).await;
    assert_eq!(header(&again, "x-mayfly-replayed"), None);
    assert_eq!(text(again).await, "hello");
}

#[tokio::test]
async fn a_refusal_that_cost_nothing_is_not_kept() {
    let place = Place { tenant: limits(|limits| limits.tokens_per_minute = Some(10)), ..Place::default() };
    let node = Node::new();
    let too_much = Script { tokens: 11, hold: 11, status: 500, ..SCRIPT };
    assert_eq!(node.serve(once(&place, "k1"), "", too_much).await.status(), 400);
    settled(&node).await;
    assert_eq!(node.serve(once(&place, "k1"), "", SCRIPT).await.status(), 200);
}

#[tokio::test]
async fn what_was_paid_for_can_be_had_again_without_money() {
    let place = Place { tenant: cap("0.001"), ..Place::default() };
    let node = Node::new();
    assert_eq!(text(node.serve(once(&place, "k1"), "", SCRIPT).await).await, "hello");
    settled(&node).await;
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402);
    assert_eq!(node.serve(once(&place, "k2"), "", SCRIPT).await.status(), 402);
    assert_eq!(text(node.serve(once(&place, "k1"), "", SCRIPT).await).await, "hello");
    settled(&node).await;
    node.assert_empty(&place.call());
}

#[tokio::test]
async fn bodies_with_a_key_are_bounded() {
    let mut place = Place::default();
    let config = Config { idempotent_request_bytes_max: 4, idempotent_calls_max: 1, ..Config::default() };
    let node = Node::with(config, Memory::working());
    let away = node.enter(&once(&place, "k1"), "12345").await.unwrap_err();
    assert_eq!(error(away).await, (413, "too_large".to_owned()));
    let inside = node.enter(&once(&place, "k1"), "1234").await.unwrap();
    let away = node.enter(&once(&place, "k2"), "1234").await.unwrap_err();
    assert_eq!(error(away).await, (503, "overloaded".to_owned()));
    drop(inside);
    place.guest.request_body_bytes_max = 3;
    let away = node.enter(&once(&place, "k1"), "1234").await.unwrap_err();
    assert!(text(away).await.contains("request_body_bytes_max = 3"));
    assert_eq!(node.entrance.door.open(), 0);
}
