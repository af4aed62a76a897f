//! Money: caps and credit under many callers, and what is read of them when.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_callers_never_overspend_a_cap() {
    // A call costs 0.003; the cap is worth 33 of them and a bit.
    let place = Place { tenant: cap("0.1"), ..Place::default() };
    let node = Arc::new(Node::new());
    let callers: Vec<JoinHandle<u32>> = (0..64)
        .map(|_| {
            let (node, place) = (node.clone(), place.clone());
            tokio::spawn(async move {
                let mut served = 0;
                for _ in 0..5 {
                    let script = Script { tokens: 3, hold: 3, status: 500, ..SCRIPT };
                    let response = node.serve(place.call(), "", script).await;
                    match response.status().as_u16() {
                        500 => served += 1,
                        402 => assert_eq!(header(&response, "x-should-retry"), Some("false")),
                        other => panic!("{other}"),
                    }
                    drop(text(response).await);
                }
                served
            })
        })
        .collect();
    let mut served = 0;
    for caller in callers {
        served += caller.await.unwrap();
    }
    assert_eq!(node.journal.spent(), money("0.099"), "overspend 0, and nothing is left unused that fits");
    assert_eq!(served, 33);
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 1, "one read for all");
}

#[tokio::test]
async fn credit_that_is_granted_counts_at_the_next_call() {
    let place = Place { project: limits(|limits| limits.prepaid = true), ..Place::default() };
    let node = Node::new();
    let away = node.serve(place.call(), "", SCRIPT).await;
    assert_eq!((header(&away, "x-should-retry"), header(&away, "retry-after")), (Some("false"), None));
    assert_eq!(error(away).await, (402, "insufficient_quota".to_owned()));
    *node.leases.granted.lock().unwrap() = Some(money("0.002"));
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402, "not known yet");
    node.entrance.admission.forget_money();
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200);
    node.entrance.admission.forget_money();
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200);
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402);
    assert_eq!(node.journal.spent(), money("0.002"));
}

#[tokio::test]
async fn money_that_cannot_be_read_lets_nobody_in() {
    let journal = Memory::working();
    let leases = MemoryLeases { failing: true, ..MemoryLeases::gated(&journal, 9) };
    let node = Node::of(Config::default(), journal, Arc::new(leases));
    let place = Place { key: cap("1"), ..Place::default() };
    for _ in 0..2 {
        let away = node.serve(place.call(), "", SCRIPT).await;
        assert_eq!(error(away).await, (507, "storage_unavailable".to_owned()));
    }
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 2, "a read that failed is tried again");
    assert_eq!(node.entrance.door.open(), 0);
}

#[tokio::test]
async fn money_is_waited_for_only_until_the_deadline() {
    let journal = Memory::working();
    let leases = Arc::new(MemoryLeases::gated(&journal, 0));
    let node = Node::of(Config::default(), journal, leases);
    let mut place = Place { key: cap("1"), ..Place::default() };
    place.guest.deadline_ms_max = 30;
    assert_eq!(error(node.serve(place.call(), "", SCRIPT).await).await, (503, "overloaded".to_owned()));
    place.guest.deadline_ms_max = 30_000;
    node.leases.gate.add_permits(1);
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200, "the read went on for the next");
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_read_from_before_the_money_changed_is_not_used() {
    let journal = Memory::working();
    let node = Arc::new(Node::of(Config::default(), journal.clone(), Arc::new(MemoryLeases::gated(&journal, 0))));
    let place = Place { project: limits(|limits| limits.prepaid = true), ..Place::default() };
    let waiting = tokio::spawn({
        let (node, context) = (node.clone(), place.call());
        async move { node.serve(context, "", SCRIPT).await.status().as_u16() }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    // The read is under way; a grant comes in between.
    *node.leases.granted.lock().unwrap() = Some(money("1"));
    node.entrance.admission.forget_money();
    node.leases.gate.add_permits(2);
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_tightest_bound_on_a_call_holds() {
    let bound = |text: &str| limits(|limits| limits.request_cost_max = Some(money(text)));
    let script = Script { tokens: 5, hold: 5, status: 500, ..SCRIPT };
    let place = Place { tenant: bound("0.1"), deployment: bound("0.005"), ..Place::default() };
    let node = Node::new();
    assert_eq!(node.serve(place.call(), "", script).await.status(), 500, "exactly as much as allowed");
    let asked = Context { cost_max: Some(money("0.0049")), ..place.call() };
    let away = node.serve(asked, "", script).await;
    assert_eq!((header(&away, "x-should-retry"), header(&away, "x-mayfly-cost")), (Some("false"), Some("0")));
    assert_eq!(error(away).await, (402, "insufficient_quota".to_owned()));
    let place = Place { key: bound("0.004"), ..Place::default() };
    let more = Context { cost_max: Some(money("9")), ..place.call() };
    assert_eq!(node.serve(more, "", script).await.status(), 402, "a caller cannot raise what it is bound to");
}

#[tokio::test]
async fn a_call_without_its_row_owes_nothing_to_its_limits() {
    let place = Place { tenant: cap("0.001"), ..Place::default() };
    let node = Node::with(Config::default(), Memory::new(0..1, 1_000));
    let lost = node.serve(place.call(), "", SCRIPT).await;
    assert_eq!((header(&lost, "x-mayfly-cost"), header(&lost, "x-mayfly-usage")), (Some("0"), Some("{}")));
    assert_eq!(error(lost).await, (507, "storage_unavailable".to_owned()));
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200, "its money was given back");
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402);
}
