//! How processes begin and end, what they are locked into, and who notices.

use std::fs;
use std::time::{Duration, Instant};

use futures::future::join_all;
use libtest_mimic::Trial;
use mayfly_inference::{RunError, WorkerConfig, WorkerError};

use crate::scene::{
    ONE, Run, Scene, TWO, add, endless, f32s, inputs, is_there, kill, pid, quick, rest, retry_ms, until, values,
};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_tenant_has_one_process_however_many_ask", a_tenant_has_one_process_however_many_ask),
        trial("a_killed_process_is_its_tenants_trouble_alone", a_killed_process_is_its_tenants_trouble_alone),
        trial("pauses_grow_with_each_crash", pauses_grow_with_each_crash),
        trial("a_process_that_hangs_is_killed", a_process_that_hangs_is_killed),
        trial("a_process_without_memory_fails_alone", a_process_without_memory_fails_alone),
        trial("an_idle_process_goes_and_leaves_nothing", an_idle_process_goes_and_leaves_nothing),
        trial("who_is_idle_makes_room_and_who_works_does_not", who_is_idle_makes_room_and_who_works_does_not),
        trial("processes_end_with_the_server", processes_end_with_the_server),
        trial("a_process_is_locked_in", a_process_is_locked_in),
        trial("one_that_cannot_start_is_not_tried_at_once_again", one_that_cannot_start_is_not_tried_at_once_again),
    ]
}

async fn a_tenant_has_one_process_however_many_ask(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.package("add");
    let runs = (0..20_u8).map(|at| {
        let run = Run::of(&inference, u128::from(at % 2) + 1, &package);
        run.spawn(add(f32::from(at), 1.0))
    });
    for (at, ran) in join_all(runs).await.into_iter().enumerate() {
        assert_eq!(values(&ran.unwrap().unwrap().0[0].tensor), [at as f32 + 1.0]);
    }
    let workers = inference.workers();
    assert_eq!((workers.starts_total, workers.workers.len(), workers.crashes_total), (2, 2, 0));
    assert_ne!(pid(&inference, ONE), pid(&inference, TWO));
}

async fn a_killed_process_is_its_tenants_trouble_alone(scene: Scene) {
    let inference = scene.start(quick());
    let (slow, add_model) = (scene.package("slow"), scene.package("add"));
    let theirs = Run::of(&inference, TWO, &slow);
    let their_run = theirs.spawn(endless());
    let ours = Run::of(&inference, ONE, &slow);
    let running = ours.spawn(endless());
    let waiting = Run::of(&inference, ONE, &slow);
    until("both have begun", || ours.begun() + theirs.begun() == 2).await;
    let waits = waiting.spawn(endless());
    until("one waits", || inference.workers().workers.iter().any(|worker| worker.runs_open == 2)).await;
    let (process, their_process) = (pid(&inference, ONE).unwrap(), pid(&inference, TWO).unwrap());

    kill(process);
    let (running, waits) = (running.await.unwrap(), waits.await.unwrap());
    assert!(matches!(running, Err(RunError::Worker(WorkerError::Crashed { .. }))), "{running:?}");
    assert!(matches!(waits, Err(RunError::Worker(WorkerError::Crashed { .. }))), "{waits:?}");
    assert_eq!((ours.begun(), waiting.begun()), (1, 0), "what had not begun is not owed");
    assert!(!is_there(process), "it was reaped");

    let again = Run::of(&inference, ONE, &add_model);
    let refused = again.go(add(1.0, 1.0)).await;
    assert!(matches!(refused, Err(RunError::Worker(WorkerError::Resting { .. }))), "{refused:?}");
    assert!((1..=200).contains(&retry_ms(&refused)), "{refused:?}");
    assert_eq!(again.begun(), 0);
    rest(&refused).await;
    assert_eq!(values(&again.go(add(1.0, 1.0)).await.unwrap().0[0].tensor), [2.0], "the time was true");
    assert_ne!(pid(&inference, ONE), Some(process));

    assert_eq!(pid(&inference, TWO), Some(their_process), "the other tenant saw nothing");
    assert!(!their_run.is_finished());
    assert!(Run::of(&inference, TWO, &add_model).go(add(1.0, 1.0)).await.is_ok());
    theirs.cancel.cancel();
    assert!(matches!(their_run.await.unwrap(), Err(RunError::Stopped { started: true })));
    assert_eq!(inference.workers().crashes_total, 1);
}

async fn pauses_grow_with_each_crash(scene: Scene) {
    let inference = scene.start(WorkerConfig { pause_ms_min: 100, pause_ms_max: 300, ..quick() });
    let run = Run::of(&inference, ONE, &scene.package("slow"));
    for expect in [100, 200, 300, 300] {
        let running = run.spawn(endless());
        let begun = run.begun();
        until("it has begun", || run.begun() > begun).await;
        kill(pid(&inference, ONE).unwrap());
        let lost = running.await.unwrap();
        let retry = retry_ms(&lost);
        assert!(retry <= expect && retry + 50 > expect, "{expect}: {lost:?}");
        rest(&lost).await;
    }
}

async fn a_process_that_hangs_is_killed(scene: Scene) {
    let inference = scene.start(quick());
    let matmul = Run::of(&inference, ONE, &scene.package("matmul")).within(Duration::from_millis(1000));
    // One node that takes many seconds on one thread, whatever it is asked.
    let size = 7000;
    let square = f32s(&[size, size], &vec![0.5; (size * size) as usize]);
    let settings_allow = 2 * square.byte_len() < WorkerConfig::default().shared_bytes_max * 2;
    assert!(settings_allow);
    let inference_large = scene_large(&scene, &matmul);
    let began = Instant::now();
    let stopped = inference_large.go(inputs(&[("a", square.clone()), ("b", square)])).await;
    assert!(matches!(stopped, Err(RunError::Stopped { .. })), "{stopped:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "the caller does not wait for it: {:?}", began.elapsed());
    let node = &inference_large.inference;
    until("it is killed", || node.workers().crashes_total == 1 && node.workers().workers.is_empty()).await;
    drop(inference);
}

/// The same run on a node that may share more.
fn scene_large(scene: &Scene, run: &Run) -> Run {
    let config = WorkerConfig { shared_bytes_max: 1 << 30, ..quick() };
    let inference = scene.start(config);
    Run::of(&inference, ONE, &run.package).within(Duration::from_millis(2500))
}

async fn a_process_without_memory_fails_alone(scene: Scene) {
    let inference = scene.start(WorkerConfig { memory_bytes_max: 256 << 20, shared_bytes_max: 8 << 30, ..quick() });
    let (matmul, add_model) = (scene.package("matmul"), scene.package("add"));
    let other = Run::of(&inference, TWO, &add_model);
    other.go(add(1.0, 2.0)).await.unwrap();
    let their_process = pid(&inference, TWO);
    // 1.6 GB of outputs from 160 KB of inputs.
    let run = Run::of(&inference, ONE, &matmul);
    let long = |dimensions: [u32; 2]| f32s(&dimensions, &[1.0; 20_000]);
    let failed = run.go(inputs(&[("a", long([20_000, 1])), ("b", long([1, 20_000]))])).await;
    assert!(matches!(failed, Err(RunError::Failed(_) | RunError::Worker(WorkerError::Crashed { .. }))), "{failed:?}");
    assert_eq!(run.begun(), 1);
    assert!(other.go(add(1.0, 2.0)).await.is_ok());
    assert_eq!(pid(&inference, TWO), their_process);
    let again = Run::of(&inference, ONE, &add_model);
    if let lost @ Err(RunError::Worker(_)) = &failed {
        rest(lost).await;
    }
    assert!(again.go(add(1.0, 2.0)).await.is_ok());
}

async fn an_idle_process_goes_and_leaves_nothing(scene: Scene) {
    let inference = scene.start(WorkerConfig { idle_ms: 300, ..quick() });
    let run = Run::of(&inference, ONE, &scene.package("add"));
    run.go(add(1.0, 2.0)).await.unwrap();
    let process = pid(&inference, ONE).unwrap();
    assert_eq!(fs::read_dir(scene.rooms()).unwrap().count(), 1);
    until("it has gone", || pid(&inference, ONE).is_none() && !is_there(process)).await;
    until("its folder, too", || fs::read_dir(scene.rooms()).unwrap().count() == 0).await;
    assert_eq!(inference.workers().crashes_total, 0);
    assert!(run.go(add(1.0, 2.0)).await.is_ok(), "and it comes back at once");
}

async fn who_is_idle_makes_room_and_who_works_does_not(scene: Scene) {
    let inference = scene.start(WorkerConfig { processes_max: 2, ..quick() });
    let (slow, add_model) = (scene.package("slow"), scene.package("add"));
    let busy = Run::of(&inference, ONE, &slow);
    let running = busy.spawn(endless());
    until("it works", || busy.begun() == 1).await;
    Run::of(&inference, TWO, &add_model).go(add(1.0, 2.0)).await.unwrap();
    let idle = pid(&inference, TWO).unwrap();
    let third = Run::of(&inference, 3, &slow);
    let third_runs = third.spawn(endless());
    until("the third works", || third.begun() == 1).await;
    until("the idle one has gone", || !is_there(idle)).await;
    assert_eq!(inference.workers().workers.len(), 2);
    let refused = Run::of(&inference, TWO, &add_model).go(add(1.0, 2.0)).await;
    assert!(matches!(refused, Err(RunError::Worker(WorkerError::NoPlace { limit: 2 }))), "{refused:?}");
    busy.cancel.cancel();
    third.cancel.cancel();
    let _ = (running.await.unwrap(), third_runs.await.unwrap());
    until("they have ended", || inference.workers().workers.iter().all(|worker| worker.runs_open == 0)).await;
    assert!(Run::of(&inference, TWO, &add_model).go(add(1.0, 2.0)).await.is_ok());
}

async fn processes_end_with_the_server(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.package("slow");
    let run = Run::of(&inference, ONE, &package);
    let running = run.spawn(endless());
    until("it works", || run.begun() == 1).await;
    let process = pid(&inference, ONE).unwrap();
    running.abort();
    let _ = running.await;
    drop((run, inference));
    until("it has gone", || !is_there(process)).await;
}

async fn a_process_is_locked_in(scene: Scene) {
    let inference = scene.start(quick());
    let run = Run::of(&inference, ONE, &scene.package("slow"));
    let running = run.spawn(endless());
    until("it works", || run.begun() == 1).await;
    let process = pid(&inference, ONE).unwrap();
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap();

    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
    let limits = read("limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().map(str::to_owned).take(2).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), ["256", "256"]);
    let data: u64 = limit("Max data size")[1].parse().unwrap();
    assert!((4 << 30..5 << 30).contains(&data), "{limits}");
    assert!(limit("Max address space")[1].parse::<u64>().is_ok(), "{limits}");
    assert_eq!(read("environ"), "ORT_DISABLE_TELEMETRY=1\0");
    let nice: i32 = read("stat").rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap();
    assert!(nice > 0, "it yields to the server");
    let mut open: Vec<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .collect();
    open.retain(|target| !target.starts_with("anon_inode:") && target != "/dev/null");
    let own = |target: &String| target.starts_with("socket:") || target.contains("mayfly-worker");
    assert!(open.iter().all(own), "{open:?}");
    running.abort();
}

async fn one_that_cannot_start_is_not_tried_at_once_again(scene: Scene) {
    let config = WorkerConfig { start_ms_max: 300, ..quick() };
    for script in ["exec sleep 600", "exit 1"] {
        let inference = scene.start_with_child(config.clone(), scene.program(script));
        let run = Run::of(&inference, ONE, &scene.package("add"));
        let began = Instant::now();
        let failed = run.go(add(1.0, 2.0)).await;
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(retry_ms(&failed) > 0, "{failed:?}");
        let refused = run.go(add(1.0, 2.0)).await;
        assert!(matches!(refused, Err(RunError::Worker(WorkerError::Resting { .. }))), "{refused:?}");
        let state = inference.workers();
        assert_eq!((state.starts_total, state.crashes_total, state.workers.len(), run.begun()), (1, 1, 0, 0));
    }
}
