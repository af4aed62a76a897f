//! A process that a model has taken over, and what it could say to the server.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mayfly_inference::{Caller, Device, RunError, WorkerConfig, WorkerError, WorkerLoad};
use mayfly_types::ModelId;
use tokio_util::sync::CancellationToken;

use crate::scene::{ONE, Run, Scene, add, f32s, inputs, is_there, limits, pid, quick, until};
use crate::speech::{hear, say, tell};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("whatever_a_process_says_only_its_tenant_hears", whatever_a_process_says_only_its_tenant_hears),
        trial("a_process_that_says_nothing_is_ended", a_process_that_says_nothing_is_ended),
        trial("a_process_that_reads_nothing_blocks_nobody", a_process_that_reads_nothing_blocks_nobody),
        trial("who_leaves_as_the_answer_comes_owes_it", leaves_as_it_comes),
        trial("a_process_that_boasts_of_its_load_is_not_believed", boasts),
        trial("a_process_that_claims_its_space_without_writing_gives_zeros", claims_without_writing),
    ]
}

const KINDS: &[&str] = &[
    "noise",
    "empty-json",
    "long-length",
    "unknown-run",
    "huge-shape",
    "many-dimensions",
    "short-data",
    "long-data",
    "wrong-name",
    "twice",
    "no-output",
    "not-a-boolean",
    "written-without-space",
    "taken-without-inputs",
    "ready-again",
    "stopped-by-nobody",
    "oversized-packet",
    "unasked-report",
    "report-of-nonsense",
    "report-of-many",
    "report-twice",
    "flood",
    "exit",
];

/// The process's side: speaks as the real one does until it has a run, then says `kind`.
pub(crate) fn worker(kind: &str) {
    hear();
    tell("\"ready\"", &[]);
    if kind == "deaf" {
        std::thread::sleep(Duration::from_secs(600));
    }
    let order = hear();
    assert!(order.contains("\"run\":1"), "{order}");
    let outputs =
        |values: &str| format!(r#"{{"outputs":{{"run":1,"load_us":null,"outputs":[{values}],"inline":true}}}}"#);
    let report = |models: &str, figure: &str| {
        let names = ["sequences", "slots", "waiting", "kv_tokens", "kv_tokens_max", "state_bytes"];
        let figures: Vec<_> = names.iter().map(|name| format!(r#""{name}":{figure}"#)).collect();
        format!(r#"{{"report":{{"models":[{models}],{}}}}}"#, figures.join(","))
    };
    let asked = || while hear() != r#""report""# {};
    let z = |dimensions: &str| format!(r#"{{"name":"z","element_type":"f32","dimensions":[{dimensions}]}}"#);
    match kind {
        "noise" => say(&[0xff; 100]),
        "empty-json" => tell("", &[]),
        "long-length" => say(&[0xff, 0xff, 0xff, 0xff, b'{']),
        "unknown-run" => tell(r#"{"started":{"run":77}}"#, &[]),
        "huge-shape" => tell(&outputs(&z("4294967295,4294967295,4294967295")), &[0; 4]),
        "many-dimensions" => tell(&outputs(&z(&["1"; 5000].join(","))), &[0; 4]),
        "short-data" => tell(&outputs(&z("9")), &[0; 4]),
        "long-data" => tell(&outputs(&z("1")), &[0; 400]),
        "wrong-name" => tell(&outputs(&z("1").replace("\"z\"", "\"y\"")), &[0; 4]),
        "twice" => tell(&outputs(&[z("1"), z("1")].join(",")), &[0; 8]),
        "no-output" => tell(&outputs(""), &[]),
        "not-a-boolean" => tell(&outputs(&z("4").replace("f32", "bool")), &[7; 4]),
        "written-without-space" => tell(r#"{"written":{"run":1}}"#, &[]),
        "taken-without-inputs" => tell(r#"{"taken":{"run":1}}"#, &[]),
        "ready-again" => tell("\"ready\"", &[]),
        "stopped-by-nobody" => tell(r#"{"failed":{"run":1,"fault":"stopped"}}"#, &[]),
        "oversized-packet" => say(&vec![b' '; 100 << 10]),
        "flood" => loop {
            tell(r#"{"started":{"run":1}}"#, &vec![b'x'; 60 << 10]);
        },
        "unasked-report" => tell(&report("", "1"), &[]),
        "report-of-nonsense" => {
            asked();
            tell(&report("", "-1"), &[]);
        }
        "report-of-many" => {
            asked();
            let model = |number: u32| format!(r#"{{"package":"sha256:{number:064x}","bytes":1}}"#);
            tell(&report(&(0..300).map(model).collect::<Vec<_>>().join(","), "1"), &[]);
        }
        "report-twice" => {
            asked();
            tell(&report("", "1"), &[]);
            tell(&report("", "1"), &[]);
        }
        "boasts" => {
            let all = u64::MAX.to_string();
            let model = format!(r#"{{"package":"sha256:{:064x}","bytes":{all}}}"#, 7);
            loop {
                asked();
                tell(&report(&model, &all), &[]);
            }
        }
        "exit" => std::process::exit(3),
        "silent" => {}
        "answers" => tell(&outputs(&z("1")), &[0; 4]),
        "claims" => {
            tell(&outputs(&z("100000")).replace("true", "false"), &[]);
            let space = hear();
            assert!(space.contains("space"), "{space}");
            tell(r#"{"written":{"run":1}}"#, &[]);
        }
        other => panic!("{other}"),
    }
    io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

fn program(scene: &Scene, kind: &str) -> std::path::PathBuf {
    scene.program(&format!("exec {} __hostile {kind}", std::env::current_exe().unwrap().display()))
}

async fn whatever_a_process_says_only_its_tenant_hears(scene: Scene) {
    let package = scene.package("add");
    for kind in KINDS {
        let inference = scene.start_with_child(quick(), program(&scene, kind));
        let run = Run::of(&inference, ONE, &package).within(Duration::from_secs(3));
        let began = Instant::now();
        let running = run.spawn(add(1.0, 2.0));
        until("it has started", || pid(&inference, ONE).is_some() || running.is_finished()).await;
        let failed = running.await.unwrap();
        assert!(matches!(failed, Err(RunError::Worker(WorkerError::Crashed { .. }))), "{kind}: {failed:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{kind}: {:?}", began.elapsed());
        until(kind, || inference.workers().crashes_total == 1 && inference.workers().workers.is_empty()).await;
        assert!(run.begun() <= 1, "{kind}");
    }
}

async fn a_process_that_says_nothing_is_ended(scene: Scene) {
    let inference = scene.start_with_child(quick(), program(&scene, "silent"));
    let run = Run::of(&inference, ONE, &scene.package("add")).within(Duration::from_millis(500));
    let running = run.spawn(add(1.0, 2.0));
    until("it is there", || pid(&inference, ONE).is_some()).await;
    let process = pid(&inference, ONE).unwrap();
    let failed = running.await.unwrap();
    assert!(matches!(failed, Err(RunError::Stopped { started: false })), "{failed:?}");
    assert_eq!(run.begun(), 0);
    until("it is killed", || !is_there(process)).await;
    until("that is told", || inference.workers().crashes_total == 1).await;
}

async fn a_process_that_reads_nothing_blocks_nobody(scene: Scene) {
    let inference = scene.start_with_child(WorkerConfig { runs_max: 1024, ..quick() }, program(&scene, "deaf"));
    let package = scene.package("add");
    let numbers = f32s(&[1500], &[1.0; 1500]);
    let given = inputs(&[("x", numbers.clone()), ("y", numbers)]);
    // More than the system keeps for it.
    let run = Run::of(&inference, ONE, &package).within(Duration::from_millis(800));
    let runs: Vec<_> = (0..200).map(|_| run.spawn(given.clone())).collect();
    let began = Instant::now();
    for running in runs {
        let failed = running.await.unwrap();
        assert!(
            matches!(failed, Err(RunError::Stopped { started: false } | RunError::Worker(_) | RunError::Load(_))),
            "{failed:?}"
        );
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    until("it is killed", || inference.workers().crashes_total == 1).await;
    assert_eq!(run.begun(), 0);
}

/// The answer comes while its caller is leaving: the account and the error must not tell two stories.
async fn leaves_as_it_comes(scene: Scene) {
    let package = scene.package("add");
    for _ in 0..4 {
        let inference = scene.start_with_child(quick(), program(&scene, "answers"));
        let prepared = package.prepare(ModelId::new(), add(1.0, 2.0), limits()).unwrap();
        let (cancel, begun) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (leaves, count) = (cancel.clone(), Arc::clone(&begun));
        let started = move || {
            count.fetch_add(1, Ordering::SeqCst);
            // Its caller wants to leave, and has to wait until this was heard.
            leaves.cancel();
            std::thread::sleep(Duration::from_millis(200));
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        let caller = Caller { owner: ONE, deadline, cancel: &cancel };
        let ran = inference.run_apart(&package, Device::Cpu, prepared, caller, started).await;
        assert!(matches!(ran, Ok(_) | Err(RunError::Stopped { started: true })), "{ran:?}");
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }
}

async fn boasts(scene: Scene) {
    let config = WorkerConfig { memory_bytes_max: 1 << 30, sessions_max: 3, ..quick() };
    let most = config.clone();
    let inference = scene.start_with_child(config, program(&scene, "boasts"));
    let run = Run::of(&inference, ONE, &scene.package("add")).within(Duration::from_secs(20));
    let running = run.spawn(add(1.0, 2.0));
    let load = || inference.workers().workers.first().map(|worker| worker.load).unwrap_or_default();
    until("it has told", || load() != WorkerLoad::default()).await;
    let told = load();
    assert_eq!((told.models, told.model_bytes), (1, most.memory_bytes_max), "no more than it may have");
    assert!(told.sequences <= told.slots && told.slots <= 3 * 256 && told.waiting <= 1 << 20, "{told:?}");
    assert!(told.kv_tokens <= told.kv_tokens_max && told.state_bytes < 1 << 50, "{told:?}");
    assert_eq!(inference.bytes_apart(ONE, run.package.digest(), mayfly_inference::Device::Cpu), 0, "another package");
    assert_eq!(inference.workers().crashes_total, 0);
    running.abort();
}

async fn claims_without_writing(scene: Scene) {
    let inference = scene.start_with_child(quick(), program(&scene, "claims"));
    let run = Run::of(&inference, ONE, &scene.package("add")).within(Duration::from_secs(5));
    let (outputs, _) = run.go(add(1.0, 2.0)).await.unwrap();
    assert_eq!(outputs[0].tensor.dimensions(), [100_000]);
    assert!(outputs[0].tensor.bytes().iter().all(|&byte| byte == 0));
    assert_eq!(run.begun(), 1, "outputs are owed, whether or not it said that it began");
}
