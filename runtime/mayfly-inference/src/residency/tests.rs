//! Residency on the real library: a budget, room that has to be made, and many models in turn.

mod beside;
mod kept;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Weights;
use super::need::SESSION_BYTES_MIN;
use crate::package::wire::product;
use crate::runtime::tests::{
    Begun, add, alone, by, endless, f32s, model, request, run, slow, soon, start, until, values, weights,
};
use crate::session::Model;
use crate::{Config, DeviceResidency, Fit, Inference, LoadError, Residency, RunError};

const MIB: u64 = 1 << 20;

fn cpu(inference: &Inference) -> DeviceResidency {
    inference.residency().devices[0]
}

/// A model with 64 MiB of weights beside it, and its sizes.
fn large() -> (TempDir, Model) {
    let (folder, model) = weights();
    let graph = fs::metadata(&model.file).unwrap().len();
    (folder, Model { weights: Weights { graph, beside: 64 * MIB }, ..model })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_fits_is_said_at_once_and_costs_nobody_anything() {
    let inference = start(Config { resident_bytes_max: 100 * MIB, session_stay_ms_min: 0, ..Config::default() });
    run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    let (_folder, large) = large();
    let asked = Instant::now();
    let error = inference.load_model(large.clone(), soon()).await.unwrap_err();
    assert!(matches!(error, LoadError::NeverFits { budget, .. } if budget == 100 * MIB), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(1));
    let text = error.to_string();
    assert!(text.contains("inference.resident_bytes_max") && text.contains("100 MiB"), "{text}");
    assert!(inference.is_loaded(model("add").digest, crate::Device::Cpu), "nothing went for it");
    assert_eq!((inference.residency().loads_total, cpu(&inference).refused_total), (1, 1));
    // Its weights alone, which are mapped, would do; what is packed of them besides would not.
    let inference = start(Config { resident_bytes_max: 150 * MIB, ..Config::default() });
    assert_eq!(inference.fit_model(&large, None).unwrap(), Fit::Fits);
    inference.load_model(large.clone(), soon()).await.unwrap();
    let device = cpu(&inference);
    assert!(device.bytes >= 50 * MIB && device.mapped_bytes == 64 * MIB, "{device:?}");
    assert_eq!(inference.fit_model(&large, None).unwrap(), Fit::Fits, "64 and 64");
    let (_folder, other) = self::large();
    let other = Model { digest: Digest::of(b"other"), ..other };
    inference.load_model(other, soon()).await.unwrap();
    let third = Model { digest: Digest::of(b"third"), ..large };
    assert_eq!(inference.fit_model(&third, None).unwrap(), Fit::FitsAfterEviction);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_waits_for_room_and_begins_when_work_ends() {
    let inference = start(Config { sessions_max: 1, session_stay_ms_min: 0, ..Config::default() });
    let (cancel, begun) = (CancellationToken::new(), Begun::default());
    let busy = inference.run_model(model("slow"), endless(), by(&cancel), begun.callback());
    let (busy, ()) = tokio::join!(busy, async {
        until("begun", || begun.times() == 1).await;
        let mut waits = Box::pin(run(&inference, "add", add(1.0, 2.0)));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut waits).await;
        assert!(early.is_err(), "what works never goes");
        assert_eq!((cpu(&inference).loads_queued, cpu(&inference).waiting), (1, 1));
        cancel.cancel();
        let (outputs, stats) = waits.await.unwrap();
        assert_eq!(values(&outputs[0].tensor), [3.0]);
        assert!(stats.load.unwrap() >= Duration::from_millis(200), "the wait is in it");
    });
    assert!(matches!(busy, Err(RunError::Stopped { started: true })), "{busy:?}");
    assert_eq!(cpu(&inference).evicted_for_room_total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_room_has_an_end_and_who_leaves_is_forgotten() {
    let config = Config {
        sessions_max: 1,
        load_wait_ms_max: 300,
        loads_waiting_max: 1,
        session_stay_ms_min: 0,
        ..Config::default()
    };
    let inference = start(config);
    let (cancel, begun) = (CancellationToken::new(), Begun::default());
    let busy = inference.run_model(model("slow"), endless(), by(&cancel), begun.callback());
    let (_, ()) = tokio::join!(busy, async {
        until("begun", || begun.times() == 1).await;
        let asked = Instant::now();
        let second = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            inference.load_model(model("matmul"), soon()).await
        };
        let (first, second) = tokio::join!(inference.load_model(model("add"), soon()), second);
        assert!(matches!(first, Err(LoadError::NoRoom)), "{first:?}");
        assert!(asked.elapsed() >= Duration::from_millis(300) && asked.elapsed() < Duration::from_secs(20));
        assert!(matches!(second, Err(LoadError::TooManyWait { limit: 1 })), "{second:?}");
        // Who leaves makes a place, and what only it wanted is not loaded.
        let left = tokio::time::timeout(Duration::from_millis(50), inference.load_model(model("add"), soon())).await;
        assert!(left.is_err());
        assert_eq!((cpu(&inference).loads_queued, cpu(&inference).waiting), (0, 0));
        cancel.cancel();
    });
    run(&inference, "slow", slow(1)).await.unwrap();
    assert_eq!(inference.residency().loads_total, 1);
    assert_eq!(cpu(&inference).refused_total, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_of_many_models_under_a_small_budget() {
    // Each takes what any session does; three have room, and six are wanted at once by eight callers each.
    let config = Config { resident_bytes_max: 3 * MIB, session_stay_ms_min: 0, ..Config::default() };
    let inference = start(config);
    let folder = tempfile::tempdir().unwrap();
    let models: Vec<_> = (0..6).map(|number| scale(folder.path(), number)).collect();
    let callers = (0..48).map(|caller| {
        let (inference, model) = (inference.clone(), models[caller % 6].clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                assert_eq!(times_two(&inference, &model).await, 2.0 * (caller % 6) as f32);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let device = cpu(&inference);
    assert!(device.bytes <= 3 * MIB && device.waiting == 0 && device.refused_total == 0, "{device:?}");
}

/// `y = x * number`, as a file of its own.
fn scale(folder: &Path, number: u32) -> Model {
    let file = folder.join(format!("{number}.onnx"));
    let bytes = product(&vec![number as f32; 1024]);
    fs::write(&file, &bytes).unwrap();
    let weights = Weights { graph: bytes.len() as u64, beside: 0 };
    Model { digest: Digest::of(&bytes), file, weights, ..model("add") }
}

/// The first element of what `model` makes of twos.
async fn times_two(inference: &Inference, model: &Model) -> f32 {
    let inputs = request(&[("x", f32s(&[1024], &[2.0; 1024]))], &["y"]);
    let never = CancellationToken::new();
    let (outputs, _) = inference.run_model(model.clone(), inputs, by(&never), Box::new(|| ())).await.unwrap();
    values(&outputs[0].tensor)[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_models_in_turn_under_a_budget_for_fifty() {
    if !alone("residency::tests::two_hundred_models_in_turn_under_a_budget_for_fifty") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let models: Vec<_> = (0..200).map(|number| scale(folder.path(), number)).collect();
    let budget = 50 * (SESSION_BYTES_MIN + 8 * 1024);
    let config = Config { resident_bytes_max: budget, session_stay_ms_min: 0, ..Config::default() };
    let inference = start(config);
    let round = async || {
        for (number, model) in models.iter().enumerate() {
            assert_eq!(times_two(&inference, model).await, 2.0 * number as f32);
            let residency = inference.residency();
            assert!(residency.models.len() <= 50 && residency.devices[0].bytes <= budget, "{:?}", residency.devices);
        }
        inference.evict_idle(true);
        // A thread that has dropped its session says so a moment later.
        let gone = |residency: &Residency| {
            residency.models.is_empty()
                && residency.devices[0].bytes == 0
                && residency.loads_total == residency.unloads_total
        };
        until("all are unloaded", || gone(&inference.residency())).await;
    };
    // The first time, whatever is made once is made.
    round().await;
    let before = State::of_process();
    for _ in 0..3 {
        round().await;
    }
    // A thread that has said that its session is gone ends a moment later. The first round's last ones may have been on
    // their way out, too.
    until("their threads end", || State::of_process().threads <= before.threads).await;
    let after = State::of_process();
    assert_eq!(after.descriptors, before.descriptors);
    assert!(after.own_bytes <= before.own_bytes + 8 * MIB, "{before:?} {after:?}");
    assert!(after.mappings <= before.mappings + 8, "{before:?} {after:?}");
    let residency = inference.residency();
    assert_eq!(residency.loads_total, 800, "least recently used, in turn: each is gone when it comes again");
    assert!(residency.devices[0].evicted_for_room_total >= 4 * 150, "{:?}", residency.devices);
}

#[derive(Debug)]
struct State {
    threads: usize,
    descriptors: usize,
    mappings: usize,
    own_bytes: u64,
}

impl State {
    fn of_process() -> Self {
        let count = |folder: &str| fs::read_dir(folder).unwrap().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Self {
            threads: count("/proc/self/task"),
            descriptors: count("/proc/self/fd"),
            mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
            own_bytes: line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024,
        }
    }
}
