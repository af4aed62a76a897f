//! More sessions of one model.

use std::sync::{Arc, Mutex};

use super::*;
use crate::Output;

/// As one that would have a copy, or whose weights are mapped as they are: nothing is inside the graph.
fn slow_model() -> Model {
    model("slow")
}

/// Runs `count` runs of `slow` at once, and gives when each began and ended, and its output.
async fn at_once(inference: &Inference, count: usize, times: i64) -> Vec<(Instant, Instant, Vec<f32>)> {
    let runs = (0..count).map(|_| {
        let inference = inference.clone();
        tokio::spawn(async move {
            let began = Arc::new(Mutex::new(None));
            let seen = Arc::clone(&began);
            let started = Box::new(move || *seen.lock().unwrap() = Some(Instant::now()));
            let never = CancellationToken::new();
            let (outputs, _): (Vec<Output>, _) =
                inference.run_model(slow_model(), slow(times), by(&never), started).await.unwrap();
            let began = began.lock().unwrap().unwrap();
            (began, Instant::now(), values(&outputs[0].tensor))
        })
    });
    let mut done = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        done.push(run.await.unwrap());
    }
    done
}

fn sessions(inference: &Inference) -> u32 {
    inference.residency().models.iter().map(|model| model.sessions).sum()
}

/// The most runs that were going on at one time; ends are seen a little late, so `began` alone decides with them.
fn most_at_once(runs: &[(Instant, Instant, Vec<f32>)]) -> usize {
    let going = |at: Instant| runs.iter().filter(|(began, ended, _)| *began <= at && at < *ended).count();
    runs.iter().map(|(began, ended, _)| going(*began + (*ended - *began) / 2)).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_cannot_be_joined_get_a_second_session_and_the_same_results() {
    let config =
        Config { sessions_per_model_max: 2, session_stay_ms_min: 0, session_idle_ms: 1_500, ..Config::default() };
    let inference = start(config.clone());
    let expected = at_once(&inference, 1, 500).await.remove(0).2;
    assert_eq!(sessions(&inference), 1, "one caller has one");
    let mut overlapped = false;
    for _ in 0..50 {
        let runs = at_once(&inference, 8, 500).await;
        assert!(runs.iter().all(|(.., output)| *output == expected), "whichever session it was");
        overlapped |= sessions(&inference) == 2 && most_at_once(&runs) >= 2;
        if overlapped {
            break;
        }
    }
    assert!(overlapped, "two at a time");
    assert_eq!(sessions(&inference), 2, "and never more than that");
    let device = cpu(&inference);
    assert!(device.bytes >= 2 * SESSION_BYTES_MIN, "it counts: {device:?}");

    // One caller at a time needs one: the other idles out while the first is used.
    let began = Instant::now();
    while sessions(&inference) == 2 {
        at_once(&inference, 1, 100).await;
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(inference.residency().models.len(), 1, "the first is still there");
    inference.evict_idle(true);
    until("all is given back", || cpu(&inference).bytes == 0).await;
    let residency = inference.residency();
    assert_eq!(residency.loads_total, residency.unloads_total);

    let one = start(Config { sessions_per_model_max: 1, ..config });
    for _ in 0..5 {
        at_once(&one, 8, 500).await;
    }
    assert_eq!((sessions(&one), one.residency().loads_total), (1, 1), "unless the operator wants one for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_session_takes_no_room_from_others_and_goes_with_the_first() {
    let config = Config { sessions_per_model_max: 4, session_stay_ms_min: 0, ..Config::default() };
    let full = start(Config { sessions_max: 1, ..config.clone() });
    for _ in 0..5 {
        at_once(&full, 8, 500).await;
    }
    assert_eq!((sessions(&full), full.residency().loads_total), (1, 1), "nothing goes for it, and none waits for it");

    let inference = start(config);
    for _ in 0..50 {
        at_once(&inference, 8, 500).await;
        if sessions(&inference) > 1 {
            break;
        }
    }
    assert!(sessions(&inference) > 1);
    // Closed in the middle of work: nothing is lost, and all of them go.
    let busy = tokio::spawn({
        let inference = inference.clone();
        async move { at_once(&inference, 8, 500).await.len() }
    });
    for _ in 0..20 {
        inference.evict_idle(true);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(busy.await.unwrap(), 8);
    until("all go", || {
        inference.evict_idle(true);
        cpu(&inference).bytes == 0 && inference.residency().models.is_empty()
    })
    .await;
    let residency = inference.residency();
    assert_eq!(residency.loads_total, residency.unloads_total);
}
