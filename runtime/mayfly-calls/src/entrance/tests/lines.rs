//! Lines: who waits for a place of its deployment, and what it has taken meanwhile.

use mayfly_types::ScaleSpec;

use super::*;

fn place(concurrency_max: u32, queue_max: u32) -> Place {
    let scale =
        ScaleSpec { concurrency_max: Some(concurrency_max), queue_max: Some(queue_max), ..ScaleSpec::default() };
    Place { scale, ..Place::default() }
}

#[tokio::test]
async fn one_at_a_time_and_all_are_answered() {
    let (node, place) = (Node::new(), place(1, 5));
    let slow = Script { pause_ms: 5, ..SCRIPT };
    let calls = (0..6).map(|_| node.serve(place.call(), "", slow));
    let answers = futures::future::join_all(calls).await;
    for answer in answers {
        assert_eq!(answer.status(), 200);
    }
    settled(&node).await;
    node.assert_empty(&place.call());
    assert_eq!(node.journal.rows().len(), 6, "one row for each");
}

#[tokio::test]
async fn a_full_line_refuses_at_once_and_takes_nothing() {
    let place = Place { deployment: limits(|limits| limits.requests_per_minute = Some(3)), ..place(1, 1) };
    let node = Node::new();
    let first = node.enter(&place.call(), "").await.unwrap();
    let context = place.call();
    let second = node.enter(&context, "");
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    for _ in 0..20 {
        let refused = node.enter(&place.call(), "").await.unwrap_err();
        assert_eq!(header(&refused, "x-mayfly-retry-estimate"), Some("true"));
        let (status, code) = error(refused).await;
        assert_eq!((status, code.as_str()), (429, "rate_limited"), "by the line, not by the rate");
    }
    drop(first);
    let second = second.await.unwrap();
    drop(second);
    let third = node.enter(&place.call(), "").await;
    assert!(third.is_ok(), "none of the refused ones was counted as a request");
    drop(third);
    assert_eq!(error(node.enter(&place.call(), "").await.unwrap_err()).await.0, 429, "three in a minute");
    node.assert_empty(&place.call());
}

#[tokio::test]
async fn who_leaves_or_is_late_gives_back_all() {
    let mut place = place(1, 5);
    let node = Node::new();
    let first = node.enter(&place.call(), "").await.unwrap();
    let context = place.call();
    {
        let left = node.enter(&context, "");
        tokio::pin!(left);
        assert!(futures::poll!(&mut left).is_pending());
        assert_eq!(node.entrance.door.waiting(), 1);
    }
    assert_eq!((node.entrance.door.waiting(), node.entrance.door.open()), (0, 1));
    place.guest.deadline_ms_max = 20;
    let began = Instant::now();
    let late = node.enter(&place.call(), "").await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "it did not wait for the first");
    assert_eq!(error(late).await, (503, "overloaded".to_owned()));
    drop(first);
    node.assert_empty(&place.call());
    assert!(node.journal.rows().is_empty(), "whoever had no turn has no row");
}

#[tokio::test]
async fn a_kept_answer_needs_no_place() {
    let (node, place) = (Node::new(), place(1, 0));
    let first = node.serve(once(&place, "k"), "", SCRIPT).await;
    assert_eq!(first.status(), 200);
    settled(&node).await;
    let _busy = node.enter(&place.call(), "").await.unwrap();
    // It takes no turn, but it must come in: with no room in the line it is told to come again.
    let refused = node.enter(&once(&place, "k"), "").await.unwrap_err();
    assert_eq!(error(refused).await.0, 429);
    let roomy = Place { scale: ScaleSpec { queue_max: Some(1), ..place.scale }, ..place };
    let entry = node.enter(&once(&roomy, "k"), "").await.unwrap();
    assert!(entry.kept.is_some());
}
