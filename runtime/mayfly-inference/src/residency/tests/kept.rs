//! Models that are kept loaded.

use super::*;
use crate::{Keep, KeepError};

/// For runs.
fn keep(model: &Model) -> Keep {
    Keep { model: model.clone(), runs: true, decoder: None }
}

fn loaded(inference: &Inference, name: &str) -> bool {
    inference.is_loaded(model(name).digest, crate::Device::Cpu)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_loaded_at_once_and_stays_until_nobody_keeps_it() {
    let config = Config {
        pinned_bytes_max: 2 * MIB,
        session_stay_ms_min: 0,
        session_idle_ms: 50,
        sessions_max: 4,
        ..Config::default()
    };
    let inference = start(config);
    inference.keep(1, vec![keep(&model("add"))]).unwrap();
    until("it is loaded though nobody asked", || loaded(&inference, "add")).await;
    assert!(inference.is_kept(model("add").digest, crate::Device::Cpu));
    inference.load_model(model("matmul"), soon()).await.unwrap();
    until("what is not kept idles out", || !loaded(&inference, "matmul")).await;
    assert_eq!(inference.evict_idle(true), 0, "not even by force");
    assert!(loaded(&inference, "add"));
    // The other one's bytes go a moment after it.
    until("what is kept is all there is", || cpu(&inference).pinned_bytes == cpu(&inference).bytes).await;
    let (_, stats) = run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    assert_eq!(stats.load, None);

    // Two keep the same: it goes with the last of them.
    inference.keep(2, vec![keep(&model("add")), keep(&model("matmul"))]).unwrap();
    inference.keep(1, Vec::new()).unwrap();
    until("the other one comes", || loaded(&inference, "matmul")).await;
    assert_eq!(inference.residency().loads_total, 3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(loaded(&inference, "add") && loaded(&inference, "matmul"));
    inference.keep(2, vec![keep(&model("matmul"))]).unwrap();
    until("nobody keeps it", || !loaded(&inference, "add")).await;
    inference.keep(2, Vec::new()).unwrap();
    until("nor this", || !loaded(&inference, "matmul")).await;
    until("nothing is left", || (cpu(&inference).bytes, cpu(&inference).pinned_bytes) == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_makes_room_for_nobody_and_others_have_the_rest() {
    let config = Config {
        resident_bytes_max: 4 * SESSION_BYTES_MIN,
        pinned_bytes_max: 2 * MIB,
        session_stay_ms_min: 0,
        load_wait_ms_max: 10_000,
        ..Config::default()
    };
    let inference = start(Config { pinned_bytes_max: 2 * SESSION_BYTES_MIN, ..config });
    let folder = tempfile::tempdir().unwrap();
    let models: Vec<_> = (0..8).map(|number| scale(folder.path(), number)).collect();
    // Twice the least, and these need somewhat more.
    let error = inference.keep(1, vec![keep(&models[0]), keep(&models[1])]).unwrap_err();
    assert!(matches!(error, KeepError::NoRoom { kept: 0, .. }), "{error}");
    inference.keep(1, vec![keep(&models[0])]).unwrap();
    until("it is loaded", || inference.residency().models.len() == 1).await;
    for _ in 0..3 {
        for (number, model) in models.iter().enumerate() {
            assert_eq!(times_two(&inference, model).await, 2.0 * number as f32);
        }
    }
    assert!(inference.is_loaded(models[0].digest, crate::Device::Cpu));
    let residency = inference.residency();
    let kept = residency.models.iter().find(|loaded| loaded.digest == models[0].digest).unwrap();
    assert_eq!(kept.runs, 3, "the same session all along");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_kept_has_limits_that_say_so() {
    let inference = start(Config::default());
    let error = inference.keep(1, vec![keep(&model("add"))]).unwrap_err();
    assert!(matches!(error, KeepError::Never), "{error}");
    assert!(error.to_string().contains("inference.pinned_bytes_max = 0"), "{error}");
    assert!(inference.keep(1, Vec::new()).is_ok(), "nothing is always kept");

    let inference = start(Config { pinned_bytes_max: MIB, sessions_max: 4, ..Config::default() });
    // Room that is set aside counts, but not against who set it aside, and not twice.
    let room = inference.reserve(1, vec![keep(&model("add"))]).unwrap();
    let error = inference.keep(2, vec![keep(&model("matmul")), keep(&model("slow"))]).unwrap_err();
    assert!(matches!(error, KeepError::NoRoom { kept: SESSION_BYTES_MIN, limit: MIB, .. }), "{error}");
    assert!(error.to_string().contains("(inference.pinned_bytes_max) 1 MiB are taken"), "{error}");
    inference.keep(3, vec![keep(&model("add")), keep(&model("add"))]).unwrap();
    inference.keep(1, vec![keep(&model("add")), keep(&model("matmul"))]).unwrap();
    drop(room);
    let error = inference.reserve(2, vec![keep(&model("slow"))]).unwrap_err();
    assert!(matches!(error, KeepError::NoRoom { kept: MIB, .. }), "{error}");
    // Whoever asks for more than it may have keeps nothing; what it kept alone is free.
    inference.keep(1, vec![keep(&model("matmul")), keep(&model("slow"))]).unwrap_err();
    inference.keep(2, vec![keep(&model("slow"))]).unwrap();

    // More than all there may be never fits, and is not told to wait for others.
    let (_folder, weighty) = large();
    let error = inference.reserve(4, vec![keep(&model("through")), keep(&weighty)]).unwrap_err();
    assert!(error.to_string().contains("no more than 1 MiB may be kept loaded"), "{error}");

    let inference = start(Config { pinned_bytes_max: 64 * MIB, sessions_max: 3, ..Config::default() });
    let error = inference.keep(1, vec![keep(&model("add")), keep(&model("slow"))]).unwrap_err();
    assert!(matches!(error, KeepError::Sessions { limit: 1, sessions_max: 3 }), "{error}");

    let (_folder, large) = large();
    let config = Config { resident_bytes_max: 100 * MIB, pinned_bytes_max: 100 * MIB, ..Config::default() };
    let error = start(config).keep(1, vec![keep(&large)]).unwrap_err();
    assert!(matches!(error, KeepError::Load(LoadError::NeverFits { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_is_tried_again_and_a_caller_may_join_it() {
    let inference = start(Config { pinned_bytes_max: 64 * MIB, sessions_max: 4, ..Config::default() });
    let folder = tempfile::tempdir().unwrap();
    let good = scale(folder.path(), 3);
    let late = Model { file: folder.path().join("late.onnx"), ..good.clone() };
    inference.keep(1, vec![keep(&late)]).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(inference.residency().loads_total, 0);
    fs::copy(&good.file, &late.file).unwrap();
    until("it is there at the next try", || inference.residency().loads_total == 1).await;
    assert_eq!(times_two(&inference, &late).await, 6.0);

    // One that waits for room behind work is joined by who needs it.
    let config = Config { session_stay_ms_min: 1_000, sessions_max: 2, ..Config::default() };
    let inference = start(Config { pinned_bytes_max: 64 * MIB, ..config });
    let (cancel, begun) = (CancellationToken::new(), Begun::default());
    let busy = inference.run_model(model("slow"), endless(), by(&cancel), begun.callback());
    let (_, ()) = tokio::join!(busy, async {
        until("begun", || begun.times() == 1).await;
        inference.load_model(model("matmul"), soon()).await.unwrap();
        inference.keep(1, vec![keep(&model("add"))]).unwrap();
        assert!(!loaded(&inference, "add"), "two are there, and neither may go");
        let joins = run(&inference, "add", add(1.0, 2.0));
        let (outputs, _) = {
            let (outputs, ()) = tokio::join!(joins, async { cancel.cancel() });
            outputs.unwrap()
        };
        assert_eq!(values(&outputs[0].tensor), [3.0]);
    });
    assert!(loaded(&inference, "add"));
}
