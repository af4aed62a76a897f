//! What of a call is in its row, however it ended.

use super::*;

#[tokio::test]
async fn a_key_that_expires_in_mid_stream_does_not_cut_the_call() {
    let node = Node::with(Config { short_answer_bytes_max: 0, ..Config::default() }, Memory::working());
    let mut context = Place::default().call();
    let soon = now() + 20_000;
    context.key = Arc::new(mayfly_registry::Key { expires_at: Some(soon), ..(*context.key).clone() });
    let response = node.serve(context, "", Script { pause_ms: 150, ..SCRIPT }).await;
    assert_eq!(text(response).await, "hello");
    assert!(now() > soon);
    settled(&node).await;
    assert_eq!(node.journal.ends()[0].outcome, Some(Outcome::Completed));
}

#[tokio::test]
async fn the_end_user_is_in_the_row() {
    let node = Node::new();
    let context = Context { end_user: Some("anna".into()), ..Place::default().call() };
    node.serve(context, "", SCRIPT).await;
    assert_eq!(node.journal.ends()[0].call.end_user.as_deref(), Some("anna"));
}

#[tokio::test]
async fn stream_is_not_billed_zero() {
    let place = Place { tenant: cap("1"), ..Place::default() };
    let node = Node::with(
        Config { short_answer_wait_ms: 0, short_answer_bytes_max: 0, ..Config::default() },
        Memory::working(),
    );
    let context = Context { trailers: true, ..place.call() };
    let response = node.serve(context, "", Script { tokens: 7, pause_ms: 150, ..SCRIPT }).await;
    assert_eq!(header(&response, "x-mayfly-cost"), None, "not known at its head");
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-mayfly-cost"], "0.007");
    settled(&node).await;
    assert_eq!((node.journal.ends().len(), tokens(&node.journal.ends()[0])), (1, 7));
    assert_eq!(node.journal.spent(), money("0.007"));
}

#[tokio::test]
async fn usage_is_not_lost_on_disconnect() {
    let place = Place { tenant: cap("0.01"), ..Place::default() };
    let node = Node::new();
    let response = node.serve(place.call(), "", Script { tokens: 7, pause_ms: 5_000, ..SCRIPT }).await;
    drop(response);
    settled(&node).await;
    let end = &node.journal.ends()[0];
    assert_eq!((end.kind, end.outcome, tokens(end)), (Kind::Settle, Some(Outcome::ClientLeft), 7));
    // And it counts against the cap.
    let more = Script { tokens: 4, hold: 4, status: 500, ..SCRIPT };
    assert_eq!(node.serve(place.call(), "", more).await.status(), 402);
}
