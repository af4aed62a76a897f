//! Runs that share a run of the graph, and runs done where they are asked for.

use std::sync::Mutex;
use std::thread::{self, ThreadId};

use mayfly_scheduler::batching::Shape;

use super::*;
use crate::session::{JoinRules, Joint};

/// `last_hidden_state[r, p] = id + 0, 0.25, 0.5, 0.75` where the mask is 1.
fn encoder() -> Model {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/encoder.onnx");
    Model { digest: Digest::of(b"encoder"), file, ..model("add") }
}

fn i64s(dimensions: &[u32], values: impl IntoIterator<Item = i64>) -> Tensor {
    let bytes: Vec<u8> = values.into_iter().flat_map(i64::to_le_bytes).collect();
    Tensor::from_bytes(ElementType::I64, dimensions, &bytes).unwrap()
}

/// One row of `ids`, to be joined with others.
fn row(ids: &[i64]) -> Request {
    let positions = u32::try_from(ids.len()).unwrap();
    let rules = JoinRules { fills: vec![Some(0), Some(0)], by_position: vec!["last_hidden_state".to_owned()] };
    let shape = Shape { rows: 1, positions, pads: true, like: Box::default() };
    let inputs = [
        ("input_ids", i64s(&[1, positions], ids.iter().copied())),
        ("attention_mask", i64s(&[1, positions], ids.iter().map(|_| 1))),
    ];
    Request { joint: Some(Joint { shape, rules: Arc::new(rules) }), ..request(&inputs, &["last_hidden_state"]) }
}

fn hidden(ids: &[i64]) -> Vec<f32> {
    ids.iter().flat_map(|id| [0.0, 0.25, 0.5, 0.75].map(|part| *id as f32 + part)).collect()
}

/// One that waits a moment for company.
fn patient() -> Inference {
    start(Config { batch_delay_us: 300_000, batch_rows_max: 8, ..Config::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_wait_together_run_as_one_and_each_gets_its_own() {
    let inference = patient();
    let rows: Vec<Vec<i64>> = (1..=8).map(|length| (0..length).map(|at| (at + length) % 8).collect()).collect();
    let runs = rows.iter().map(|ids| run_until_done(&inference, row(ids)));
    for (ids, (result, started)) in rows.iter().zip(join_all(runs).await) {
        let (outputs, stats) = result.unwrap();
        assert_eq!(outputs[0].tensor.dimensions(), [1, u32::try_from(ids.len()).unwrap(), 4]);
        assert_eq!((values(&outputs[0].tensor), started), (hidden(ids), 1));
        assert!(stats.share < stats.run, "{stats:?}");
    }
    let resident = &inference.residency().models[0];
    assert_eq!((resident.runs, resident.batches), (8, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_can_be_joined_are_shared_out_and_none_is_left_lying() {
    let config = Config {
        intra_op_threads: 2,
        sessions_per_model_max: 3,
        batch_rows_max: 8,
        session_stay_ms_min: 0,
        session_idle_ms: 1_500,
        ..Config::default()
    };
    let inference = start(config);
    let sessions = || inference.residency().models.iter().map(|model| model.sessions).sum::<u32>();
    run_until_done(&inference, row(&[1])).await.0.unwrap();
    assert_eq!(sessions(), 1, "one caller has one");
    let began = Instant::now();
    // Some leave before their turn: whose turn it is changes with it.
    let round = async |round: i64| {
        let rows: Vec<[i64; 2]> = (0..48).map(|at| [(at + round) % 8, at % 8]).collect();
        let gone = CancellationToken::new();
        let leavers = (0..5).map(|_| run_until(&inference, encoder(), row(&[1]), soon(), &gone));
        let stayers = join_all(rows.iter().map(|ids| run_until_done(&inference, row(ids))));
        let (answers, _, ()) = tokio::join!(stayers, join_all(leavers), async { gone.cancel() });
        for (ids, (result, started)) in rows.iter().zip(answers) {
            assert_eq!((values(&result.unwrap().0[0].tensor), started), (hidden(ids), 1));
        }
    };
    for at in 0.. {
        round(at).await;
        if sessions() == 3 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", inference.residency());
    }
    for at in 0..50 {
        round(at).await;
    }
    assert_eq!(sessions(), 3, "and never more than that");
    let began = Instant::now();
    while sessions() > 1 {
        run_until_done(&inference, row(&[1])).await.0.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(began.elapsed() < Duration::from_secs(20), "one caller at a time needs one");
    }
    assert_eq!(sessions(), 1, "the first is used, and stays");
    round(0).await;
    inference.evict_idle(true);
    round(0).await;
}

async fn run_until_done(inference: &Inference, request: Request) -> (Result<(Vec<Output>, RunStats), RunError>, usize) {
    run_until(inference, encoder(), request, soon(), &CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_spoils_a_shared_run_spoils_only_its_own() {
    let inference = patient();
    // The table has eight rows; nothing has checked these ids.
    let rows: [&[i64]; 4] = [&[1, 2, 3], &[99], &[4, 5], &[6]];
    let answers = join_all(rows.iter().map(|ids| run_until_done(&inference, row(ids)))).await;
    for (ids, (result, started)) in rows.iter().zip(answers) {
        assert_eq!(started, 1, "owed once, however often it ran");
        match result {
            Ok((outputs, _)) => assert_eq!(values(&outputs[0].tensor), hidden(ids)),
            Err(error) => assert!(matches!(error, RunError::Failed(_)) && *ids == [99], "{error:?} for {ids:?}"),
        }
    }
    let resident = &inference.residency().models[0];
    assert_eq!((resident.runs, resident.batches), (4, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_of_one_does_not_bind_the_others() {
    let inference = patient();
    let small = Request { output_bytes_max: 4 * 4 - 1, ..row(&[1]) };
    let (refused, fine) = tokio::join!(run_until_done(&inference, small), run_until_done(&inference, row(&[2, 3])));
    assert!(matches!(refused.0, Err(RunError::TooLarge(_))), "{refused:?}");
    assert_eq!(values(&fine.0.unwrap().0[0].tensor), hidden(&[2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_run_is_no_part_of_it() {
    let inference = patient();
    inference.load_model(encoder(), soon()).await.unwrap();
    let (cancel, begun) = (CancellationToken::new(), Begun::default());
    let leaver = inference.run_model(encoder(), row(&[1]), by(&cancel), begun.callback());
    let stays = run_until_done(&inference, row(&[2]));
    let leave = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cancel.cancel();
    };
    let (left, (result, _), ()) = tokio::join!(leaver, stays, leave);
    assert!(matches!(left, Err(RunError::Stopped { started: false })), "{left:?}");
    assert_eq!(values(&result.unwrap().0[0].tensor), hidden(&[2]));
    assert_eq!((begun.times(), inference.residency().models[0].runs), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_fills_the_queue_makes_room_for_another() {
    let inference = start(Config { queue_runs_max: 2, ..Config::default() });
    inference.load_model(model("slow"), soon()).await.unwrap();
    let (never, begun) = (CancellationToken::new(), Begun::default());
    let of = |owner, times| {
        let caller = Caller { owner, ..by(&never) };
        Box::pin(inference.run_model(model("slow"), slow(times), caller, begun.callback()))
    };
    let mut running = of(1, 3_000);
    assert!(futures::poll!(&mut running).is_pending());
    until("begun", || begun.times() == 1).await;
    let (mut first, mut second, mut other) = (of(1, 1), of(1, 1), of(2, 1));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
    assert!(futures::poll!(&mut other).is_pending(), "the other tenant's waits");
    assert!(matches!(second.await, Err(RunError::QueueFull { limit: 2 })), "for the newest of the first one's");
    let (running, first, other) = tokio::join!(running, first, other);
    assert!(running.is_ok() && first.is_ok() && other.is_ok());
}

/// The threads that runs began on.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<ThreadId>>>);

impl Threads {
    async fn run(&self, inference: &Inference, model: Model, request: Request) {
        let seen = Arc::clone(&self.0);
        let started = Box::new(move || seen.lock().unwrap().push(thread::current().id()));
        let never = CancellationToken::new();
        inference.run_model(model, request, by(&never), started).await.unwrap();
    }

    fn last_is_here(&self) -> bool {
        self.0.lock().unwrap().last() == Some(&thread::current().id())
    }
}

#[tokio::test]
async fn short_runs_of_a_steady_graph_are_done_where_they_are_asked_for() {
    let inference = start(Config { inline_us_max: 5_000, ..Config::default() });
    let steady = Model { steady: true, ..model("add") };
    let threads = Threads::default();
    threads.run(&inference, steady.clone(), add(1.0, 2.0)).await;
    assert!(!threads.last_is_here(), "nothing is known of it yet");
    // A busy machine may make one long, after which the next is not done here.
    let mut here = 0;
    for _ in 0..50 {
        threads.run(&inference, steady.clone(), add(1.0, 2.0)).await;
        here += usize::from(threads.last_is_here());
    }
    assert!(here > 10, "{here} of 50");
    let large = request(&[("x", f32s(&[4096], &[1.0; 4096])), ("y", f32s(&[4096], &[1.0; 4096]))], &["z"]);
    threads.run(&inference, steady, large).await;
    assert!(!threads.last_is_here(), "none of this size was seen");
}

#[tokio::test]
async fn a_graph_whose_work_depends_on_values_never_holds_up_the_caller_s_thread() {
    let inference = start(Config { inline_us_max: 5_000, ..Config::default() });
    let threads = Threads::default();
    for _ in 0..5 {
        threads.run(&inference, model("slow"), slow(1)).await;
        assert!(!threads.last_is_here());
    }
}
