//! Places as tasks meet them: turns, deadlines, callers who leave, a server that stops.

use mayfly_types::ScaleSpec;

use super::*;
use crate::fakes::Place;

fn door(calls_max: u32) -> Door {
    Door::new(&Config { calls_max, ..Config::default() })
}

fn context(concurrency_max: u32, queue_max: u32) -> Context {
    let scale =
        ScaleSpec { concurrency_max: Some(concurrency_max), queue_max: Some(queue_max), ..ScaleSpec::default() };
    Place { scale, ..Place::default() }.call()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test]
async fn the_limit_of_the_node_holds_and_leaving_makes_room() {
    let (door, context) = (door(2), context(9, 9));
    let first = door.enter(&context, soon()).unwrap();
    let _second = door.enter(&context, soon()).unwrap();
    assert_eq!(door.enter(&context, soon()).unwrap_err(), TurnedAway::Node(2));
    assert_eq!(door.open(), 2);
    drop(first);
    let _again = door.enter(&context, soon()).unwrap();
    assert_eq!(door.open(), 2);
}

#[tokio::test]
async fn turns_come_in_order() {
    let (door, context, stop) = (door(100), context(1, 2), CancellationToken::new());
    let mut first = door.enter(&context, soon()).unwrap();
    first.turn(soon(), &stop).await.unwrap();
    let mut second = door.enter(&context, soon()).unwrap();
    let mut third = door.enter(&context, soon()).unwrap();
    let full = door.enter(&context, soon()).unwrap_err();
    assert_eq!(full, TurnedAway::Line { running_max: 1, waiting_max: 2, retry_ms: None });
    assert_eq!((door.open(), door.waiting()), (3, 2));
    {
        let (second_turn, third_turn) = (second.turn(soon(), &stop), third.turn(soon(), &stop));
        tokio::pin!(second_turn, third_turn);
        assert!(futures::poll!(&mut second_turn).is_pending() && futures::poll!(&mut third_turn).is_pending());
        drop(first);
        second_turn.await.unwrap();
        assert!(futures::poll!(&mut third_turn).is_pending());
    }
    let full = door.enter(&context, soon());
    assert!(full.is_ok(), "there is room in the line again");
    drop((second, full));
    third.turn(soon(), &stop).await.unwrap();
    drop(third);
    assert_eq!((door.open(), door.waiting()), (0, 0));
    assert!(door.0.lock().waiting.is_empty() && door.0.lock().places.is_empty());
    assert_eq!(door.waited().read().0.last().unwrap().1, 2, "two have waited");
}

#[tokio::test]
async fn who_leaves_the_line_makes_room_in_it() {
    let (door, context, stop) = (door(100), context(1, 1), CancellationToken::new());
    let first = door.enter(&context, soon()).unwrap();
    let second = door.enter(&context, soon()).unwrap();
    assert!(door.enter(&context, soon()).is_err());
    drop(second);
    let mut third = door.enter(&context, soon()).unwrap();
    drop(first);
    third.turn(soon(), &stop).await.unwrap();
    // Told that it is its turn, and gone before it heard.
    let fourth = door.enter(&context, soon()).unwrap();
    drop(third);
    drop(fourth);
    door.enter(&context, soon()).unwrap().turn(soon(), &stop).await.unwrap();
    assert_eq!(door.open(), 0);
}

#[tokio::test]
async fn nobody_waits_past_the_deadline_or_a_stop() {
    let (door, context, stop) = (door(100), context(1, 5), CancellationToken::new());
    let _first = door.enter(&context, soon()).unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let mut second = door.enter(&context, deadline).unwrap();
    assert_eq!(second.turn(deadline, &stop).await.unwrap_err(), TurnedAway::Waited);
    assert!(Instant::now() >= deadline);
    drop(second);
    assert_eq!(door.waiting(), 0);
    let mut third = door.enter(&context, soon()).unwrap();
    stop.cancel();
    assert_eq!(third.turn(soon(), &stop).await.unwrap_err(), TurnedAway::Stopping);
}

#[tokio::test]
async fn nobody_enters_a_stopping_server() {
    let (door, context) = (door(10), context(5, 5));
    let inside = door.enter(&context, soon()).unwrap();
    door.stop();
    assert_eq!(door.enter(&context, soon()).unwrap_err(), TurnedAway::Stopping);
    assert_eq!(door.open(), 1);
    drop(inside);
    assert_eq!(door.open(), 0);
}

/// Many tasks at once: never more than may run, and all get their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once() {
    use std::sync::atomic::AtomicU32;
    let (door, running, served) = (door(1_000), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let (door, running, served) = (door.clone(), running.clone(), served.clone());
            tokio::spawn(async move {
                let mut permit = door.enter(&context(3, 200), soon()).unwrap();
                permit.turn(soon(), &CancellationToken::new()).await.unwrap();
                assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
                served.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(served.load(Ordering::SeqCst), 200);
    assert!(door.0.lock().places.is_empty());
}
