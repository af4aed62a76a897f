//! Real runs on the real library. Where it is missing these tests fail; they never skip. One file: all of them stand on the
//! same few models and helpers, and each is a short story about one handle.

mod joining;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mayfly_types::Digest;
use tokio_util::sync::CancellationToken;

use super::{Caller, Inference, RunStats};
use crate::residency::Weights;
use crate::session::{self, Executor, Model, Options, OutputPlan, Refused, Request, Source, Ticket};
use crate::{Config, Device, ElementType, LoadError, Output, RunError, StartError, Tensor};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/runtime")
}

pub(crate) fn start(config: Config) -> Inference {
    Inference::start(config).unwrap_or_else(|error| {
        panic!("{error}\nthese tests need ORT_DISABLE_TELEMETRY=1 and, unless it is installed, MAYFLY_ORT_DYLIB")
    })
}

pub(crate) fn model(name: &str) -> Model {
    let file = folder().join(format!("{name}.onnx"));
    Model {
        digest: Digest::of(name.as_bytes()),
        file,
        device: Device::Cpu,
        fixed_shapes: false,
        steady: false,
        copy: None,
        weights: Weights::default(),
        wakes_plain: false,
    }
}

pub(crate) fn f32s(dimensions: &[u32], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::from_bytes(ElementType::F32, dimensions, &bytes).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.bytes().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

pub(crate) fn request(inputs: &[(&str, Tensor)], outputs: &[&str]) -> Request {
    let plan = |name: &&str| OutputPlan { name: (*name).to_owned(), opaque: None, keep: None, on_read: Vec::new() };
    Request {
        inputs: inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect(),
        outputs: outputs.iter().map(plan).collect(),
        output_bytes_max: 1 << 30,
        joint: None,
    }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(crate) fn by(cancel: &CancellationToken) -> Caller<'_> {
    Caller { owner: 1, deadline: soon(), cancel }
}

/// Runs, and gives how often `started` was called as well.
async fn run_until(
    inference: &Inference,
    model: Model,
    request: Request,
    deadline: Instant,
    cancel: &CancellationToken,
) -> (Result<(Vec<Output>, RunStats), RunError>, usize) {
    let begun = Begun::default();
    let result = inference.run_model(model, request, Caller { owner: 1, deadline, cancel }, begun.callback()).await;
    (result, begun.times())
}

/// Counts `started`.
#[derive(Clone, Default)]
pub(crate) struct Begun(Arc<AtomicUsize>);

impl Begun {
    pub(crate) fn callback(&self) -> Box<dyn FnOnce() + Send> {
        let count = Arc::clone(&self.0);
        Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })
    }

    pub(crate) fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) async fn run(
    inference: &Inference,
    name: &str,
    request: Request,
) -> Result<(Vec<Output>, RunStats), RunError> {
    let (result, started) = run_until(inference, model(name), request, soon(), &CancellationToken::new()).await;
    assert_eq!(started, 1, "it started once");
    result
}

pub(crate) fn add(left: f32, right: f32) -> Request {
    request(&[("x", f32s(&[1], &[left])), ("y", f32s(&[1], &[right]))], &["z"])
}

/// A run of `slow` that goes on for about as long as anybody lets it.
pub(crate) fn endless() -> Request {
    slow(i64::MAX / 2)
}

pub(crate) fn slow(times: i64) -> Request {
    let times = Tensor::from_bytes(ElementType::I64, &[], &times.to_le_bytes()).unwrap();
    request(&[("times", times), ("start", f32s(&[64, 64], &[0.01; 64 * 64]))], &["end"])
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_loads_computes_and_counts_its_time() {
    let inference = start(Config::default());
    assert_eq!(inference.info().version, crate::ORT_VERSION);
    assert!(inference.info().providers.contains(&"CPUExecutionProvider".to_owned()));

    let (outputs, stats) = run(&inference, "add", add(1.5, 2.0)).await.unwrap();
    assert_eq!((outputs[0].name.as_str(), values(&outputs[0].tensor)), ("z", vec![3.5]));
    assert!(stats.load.is_some() && stats.run > Duration::ZERO);
    let (_, stats) = run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    assert_eq!(stats.load, None, "it was loaded");

    let residency = inference.residency();
    assert_eq!((residency.loads_total, residency.unloads_total, residency.models.len()), (1, 0, 1));
    assert_eq!(residency.models[0].runs, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_no_elements_at_all() {
    let inference = start(Config::default());
    use ElementType::{Bf16, Bool, F16, F32, F64, I32, I64, U8};
    let names = [
        ("f16", F16),
        ("f32", F32),
        ("f64", F64),
        ("bf16", Bf16),
        ("u8", U8),
        ("i32", I32),
        ("i64", I64),
        ("bool", Bool),
    ];
    for n in [3_u32, 0] {
        let inputs: Vec<_> = names
            .iter()
            .map(|&(name, element_type)| {
                let len = n as usize * element_type.size();
                // Any bits do, but for booleans.
                let bytes: Vec<u8> =
                    (0..len).map(|at| if element_type == Bool { 1 } else { 0x3c ^ at as u8 }).collect();
                let travels_as = if element_type == Bool { U8 } else { element_type };
                let tensor = Tensor::from_bytes(travels_as, &[n], &bytes).unwrap();
                (name, if element_type == Bool { tensor.as_boolean().unwrap() } else { tensor })
            })
            .collect();
        let outs: Vec<String> =
            names.iter().map(|(name, _)| format!("{name}_out")).chain(["less".to_owned()]).collect();
        let plans: Vec<&str> = outs.iter().map(String::as_str).collect();
        let (outputs, _) = run(&inference, "types", request(&inputs, &plans)).await.unwrap();
        assert_eq!(outputs.len(), names.len() + 1);
        for ((output, (_, input)), (_, element_type)) in outputs.iter().zip(&inputs).zip(names) {
            assert_eq!(output.tensor.element_type(), element_type, "{}", output.name);
            assert_eq!(output.tensor.dimensions(), [n], "{}", output.name);
            assert_eq!(output.tensor.bytes(), input.bytes(), "{}", output.name);
        }
        let less = outputs.last().unwrap();
        assert_eq!((less.tensor.element_type(), less.tensor.byte_len()), (Bool, n.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_goes_back_in_without_a_copy() {
    let inference = start(Config::default());
    let (mut outputs, _) = run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    let first = outputs.remove(0).tensor;
    let at = first.bytes().as_ptr();
    assert_eq!(first.clone().bytes().as_ptr(), at);

    // `through` hands its input out again: the same place, as the value of the library and as memory of ours.
    let (outputs, _) = run(&inference, "through", request(&[("x", first.clone())], &["x"])).await.unwrap();
    assert_eq!(values(&outputs[0].tensor), [3.0]);
    let ours = f32s(&[2], &[5.0, 6.0]);
    let (outputs, _) = run(&inference, "through", request(&[("x", ours.clone())], &["x"])).await.unwrap();
    let kept = outputs[0].tensor.clone();
    // Whatever memory it is, it stays when all else has gone.
    drop((ours, outputs, first));
    inference.evict_idle(true);
    until("dropped", || inference.residency().unloads_total == 2).await;
    assert_eq!(values(&kept), [5.0, 6.0]);

    let (outputs, _) = run(&inference, "add", request(&[("x", kept.clone()), ("y", kept)], &["z"])).await.unwrap();
    assert_eq!(values(&outputs[0].tensor), [10.0, 12.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_cut_marked_and_bounded_as_planned() {
    let inference = start(Config::default());
    let (a, b) = (f32s(&[2, 1], &[1.0, 2.0]), f32s(&[1, 3], &[1.0, 10.0, 100.0]));
    let mut cut = request(&[("a", a.clone()), ("b", b.clone())], &["c"]);
    let digest = Digest::of(b"package");
    cut.outputs[0].keep = Some(vec![2, 0]);
    cut.outputs[0].opaque = Some(digest);
    let (outputs, _) = run(&inference, "matmul", cut.clone()).await.unwrap();
    assert_eq!(outputs[0].tensor.dimensions(), [2, 1]);
    assert_eq!(values(&outputs[0].tensor), [100.0, 2.0]);
    assert_eq!(outputs[0].tensor.opaque_of(), Some(digest));

    cut.outputs[0].keep = Some(vec![2, 3]);
    let error = run(&inference, "matmul", cut).await.unwrap_err();
    assert!(error.to_string().contains("row 1 has no position 3"), "{error}");

    let mut large = request(&[("a", a.clone()), ("b", b.clone())], &["c"]);
    large.output_bytes_max = 23;
    assert!(matches!(run(&inference, "matmul", large).await, Err(RunError::TooLarge(_))));

    let (outputs, _) = run(&inference, "matmul", request(&[("a", a), ("b", b)], &[])).await.unwrap();
    assert!(outputs.is_empty(), "nothing was planned");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_graph_knows_is_an_error_without_paths() {
    let inference = start(Config::default());
    let unfit = request(&[("x", f32s(&[2], &[1.0; 2])), ("y", f32s(&[3], &[1.0; 3]))], &["z"]);
    let error = run(&inference, "add", unfit).await.unwrap_err();
    assert!(matches!(&error, RunError::Failed(text) if !text.contains('/')), "{error}");
    let missing = request(&[("x", f32s(&[1], &[1.0]))], &["z"]);
    assert!(matches!(run(&inference, "add", missing).await, Err(RunError::Failed(_))));
    let stranger = request(&[("w", f32s(&[1], &[1.0])), ("x", f32s(&[1], &[1.0])), ("y", f32s(&[1], &[1.0]))], &["z"]);
    assert!(matches!(run(&inference, "add", stranger).await, Err(RunError::Failed(_))));
    // The session is none the worse for it.
    assert!(run(&inference, "add", add(1.0, 1.0)).await.is_ok());
    assert_eq!(inference.residency().loads_total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_at_its_deadline_and_frees_the_session() {
    let inference = start(Config::default());
    inference.load_model(model("slow"), soon()).await.unwrap();
    let began = Instant::now();
    let deadline = began + Duration::from_millis(100);
    let (result, started) = run_until(&inference, model("slow"), endless(), deadline, &CancellationToken::new()).await;
    assert!(matches!(result, Err(RunError::Stopped { started: true })), "{result:?}");
    assert_eq!(started, 1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // It has not only been left: the next run gets the session.
    assert!(run(&inference, "slow", slow(1)).await.is_ok());

    // A time that is already over never starts.
    let (result, started) =
        run_until(&inference, model("slow"), slow(1), Instant::now(), &CancellationToken::new()).await;
    assert!(matches!(result, Err(RunError::Stopped { started: false })), "{result:?}");
    assert_eq!(started, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_and_a_dropped_run_stop() {
    let inference = start(Config::default());
    inference.load_model(model("slow"), soon()).await.unwrap();
    let working = || inference.residency().models[0].idle.is_none();
    let (cancel, begun) = (CancellationToken::new(), Begun::default());
    let first = inference.run_model(model("slow"), endless(), by(&cancel), begun.callback());
    let (result, ()) = tokio::join!(first, async {
        until("begun", || begun.times() == 1).await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(RunError::Stopped { started: true })), "{result:?}");
    until("stopped after cancel", || !working()).await;

    let begun = Begun::default();
    let task = tokio::spawn({
        let (inference, callback) = (inference.clone(), begun.callback());
        async move {
            let cancel = CancellationToken::new();
            inference.run_model(model("slow"), endless(), by(&cancel), callback).await.map(drop)
        }
    });
    until("begun", || begun.times() == 1).await;
    task.abort();
    until("stopped after drop", || !working()).await;
    assert!(run(&inference, "slow", slow(1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_stops_a_run_whose_caller_is_stuck() {
    let inference = start(Config::default());
    inference.load_model(model("slow"), soon()).await.unwrap();
    let (cancel, begun) = (CancellationToken::new(), Begun::default());
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut stuck = Box::pin(inference.run_model(
        model("slow"),
        endless(),
        Caller { owner: 1, deadline, cancel: &cancel },
        begun.callback(),
    ));
    // Polled once, then never again until it is over.
    assert!(futures::poll!(&mut stuck).is_pending());
    until("begun", || begun.times() == 1).await;
    until("stopped by the clock", || inference.residency().models[0].idle.is_some()).await;
    let result = stuck.await;
    assert!(matches!(result, Err(RunError::Stopped { started: true })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_the_departed_make_room() {
    let inference = start(Config { queue_runs_max: 2, ..Config::default() });
    inference.load_model(model("slow"), soon()).await.unwrap();
    let (cancel, leaver) = (CancellationToken::new(), CancellationToken::new());
    let begun = Begun::default();
    let spawn = |request: Request, cancel: &CancellationToken| {
        let (inference, cancel, begun) = (inference.clone(), cancel.clone(), begun.clone());
        tokio::spawn(async move {
            let callback = begun.callback();
            inference.run_model(model("slow"), request, by(&cancel), callback).await.map(drop)
        })
    };
    let running = spawn(endless(), &cancel);
    until("begun", || begun.times() == 1).await;
    // The first poll of a run on a loaded model queues it.
    let queued = |cancel| Box::pin(inference.run_model(model("slow"), slow(1), by(cancel), begun.callback()));
    let (mut left, mut stays) = (queued(&leaver), queued(&cancel));
    assert!(futures::poll!(&mut left).is_pending() && futures::poll!(&mut stays).is_pending());
    let third = queued(&cancel).await;
    assert!(matches!(third, Err(RunError::QueueFull { limit: 2 })), "{third:?}");
    leaver.cancel();
    let result = left.await;
    assert!(matches!(result, Err(RunError::Stopped { started: false })), "{result:?}");
    let newcomer = spawn(slow(1), &CancellationToken::new());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(begun.times(), 1, "nothing overtakes the one that runs");
    cancel.cancel();
    assert!(matches!(running.await.unwrap(), Err(RunError::Stopped { started: true })));
    assert!(matches!(stays.await, Err(RunError::Stopped { .. })));
    assert!(newcomer.await.unwrap().is_ok(), "it got the place of the one that left");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_one_load_and_a_failed_one_can_be_retried() {
    let inference = start(Config { sessions_per_model_max: 1, ..Config::default() });
    let all = join_all((0..32).map(|_| run_until_add(&inference))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(inference.residency().loads_total, 1);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("late.onnx");
    let late = Model { digest: Digest::of(b"late"), file: file.clone(), ..model("add") };
    let both = join_all((0..4).map(|_| inference.load_model(late.clone(), soon()))).await;
    for result in both {
        let error = result.unwrap_err();
        assert!(matches!(error, LoadError::Failed { .. }), "{error:?}");
        assert!(!error.to_string().contains('/'), "{error}");
    }
    std::fs::write(&file, b"not a model").unwrap();
    assert!(inference.load_model(late.clone(), soon()).await.is_err());
    std::fs::copy(self::folder().join("add.onnx"), &file).unwrap();
    assert!(inference.load_model(late, soon()).await.is_ok());
    assert_eq!(inference.residency().loads_total, 2);
    let odd = inference.load_model(model("i8"), soon()).await.unwrap_err();
    assert!(matches!(&odd, LoadError::Failed { detail } if detail.contains("`y`")), "{odd:?}");
}

async fn run_until_add(inference: &Inference) -> Result<(Vec<Output>, RunStats), RunError> {
    run_until(inference, model("add"), add(1.0, 2.0), soon(), &CancellationToken::new()).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_waits_for_a_load_within_its_deadline_and_the_load_goes_on() {
    let inference = start(Config::default());
    let (folder, weights) = weights();
    let error = inference.load_model(weights.clone(), Instant::now()).await.unwrap_err();
    assert!(matches!(error, LoadError::Deadline), "{error:?}");
    assert_eq!(inference.residency().loads_total, 0, "nothing begins that is too late");
    let over = Instant::now() + Duration::from_millis(20);
    let error = inference.load_model(weights.clone(), over).await.unwrap_err();
    assert!(matches!(error, LoadError::Deadline), "{error:?}");
    until("loaded", || inference.residency().loads_total == 1).await;
    drop(folder);
}

/// A model with 64 MiB of weights beside it.
pub(crate) fn weights() -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.onnx");
    std::fs::copy(self::folder().join("weights.onnx"), &file).unwrap();
    let data: Vec<u8> = 0.5_f32.to_le_bytes().iter().copied().cycle().take(64 << 20).collect();
    std::fs::write(folder.path().join("weights.bin"), data).unwrap();
    (folder, Model { digest: Digest::of(b"weights"), file, ..model("add") })
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

/// Runs one test of this program in a process of its own: what it measures is the whole process. True in that process.
pub(crate) fn alone(test: &str) -> bool {
    const ALONE: &str = "MAYFLY_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let ran = command.args(["--exact", test]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_goes_and_gives_its_memory_back() {
    if !alone("runtime::tests::an_idle_session_goes_and_gives_its_memory_back") {
        return;
    }
    let config = Config { session_idle_ms: 300, session_stay_ms_min: 0, ..Config::default() };
    let inference = start(config);
    run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    let (_folder, model) = weights();
    let before = resident_mib();
    inference.load_model(model.clone(), soon()).await.unwrap();
    let loaded = resident_mib();
    let measured = inference.residency().models.iter().map(|model| model.bytes).max().unwrap() >> 20;
    assert!(loaded >= before + 50 && measured >= 50, "{before} -> {loaded} MiB, {measured} measured");

    until("idle sessions are dropped", || inference.residency().models.is_empty()).await;
    until("both are unloaded", || inference.residency().unloads_total == 2).await;
    let after = resident_mib();
    assert!(after <= before + 25, "{before} -> {loaded} -> {after} MiB");

    // And it wakes again.
    let (result, _) = run_until(
        &inference,
        model,
        request(&[("x", f32s(&[1, 4096], &[1.0; 4096]))], &["y"]),
        soon(),
        &CancellationToken::new(),
    )
    .await;
    let (outputs, stats) = result.unwrap();
    assert!(stats.load.is_some());
    assert!((values(&outputs[0].tensor)[0] - 2048.0).abs() < 0.01);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_and_young_sessions_stay_and_room_is_made_by_age() {
    let one = Config { sessions_max: 2, session_stay_ms_min: 60_000, ..Config::default() };
    let inference = start(one);
    run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    run(&inference, "slow", slow(1)).await.unwrap();
    assert_eq!(inference.evict_idle(false), 0, "too young");
    let error = inference.load_model(model("matmul"), soon()).await.unwrap_err();
    assert!(matches!(error, LoadError::NoRoom), "{error:?}");

    let inference = start(Config { sessions_max: 2, session_stay_ms_min: 0, ..Config::default() });
    run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    run(&inference, "slow", slow(1)).await.unwrap();
    run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    run(&inference, "through", request(&[("x", f32s(&[1], &[1.0]))], &["x"])).await.unwrap();
    let mut loaded: Vec<Digest> = inference.residency().models.iter().map(|model| model.digest).collect();
    let mut expect = vec![model("add").digest, model("through").digest];
    loaded.sort();
    expect.sort();
    assert_eq!(loaded, expect, "`slow` was used longest ago");

    let (cancel, begun) = (CancellationToken::new(), Begun::default());
    let busy = inference.run_model(model("slow"), endless(), by(&cancel), begun.callback());
    let (result, ()) = tokio::join!(busy, async {
        until("begun", || begun.times() == 1).await;
        assert_eq!(inference.evict_idle(true), 1, "the busy one stays");
        cancel.cancel();
    });
    assert!(matches!(result, Err(RunError::Stopped { started: true })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_on_the_executor_ends_that_executor_only() {
    let inference = start(Config::default());
    run(&inference, "slow", slow(1)).await.unwrap();
    run(&inference, "add", add(1.0, 2.0)).await.unwrap();
    let panics = Box::new(|| panic!("this panic is part of a test"));
    let result = inference.run_model(model("add"), add(1.0, 2.0), by(&CancellationToken::new()), panics).await;
    assert!(matches!(result, Err(RunError::Failed(_))), "{result:?}");
    until("its session is dropped", || inference.residency().unloads_total == 1).await;
    let (outputs, stats) = run(&inference, "add", add(2.0, 2.0)).await.unwrap();
    assert_eq!(values(&outputs[0].tensor), [4.0]);
    assert!(stats.load.is_some(), "loaded anew");
    assert_eq!(run(&inference, "slow", slow(1)).await.unwrap().1.load, None, "others never noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_on_one_session_never_overlap_and_all_are_answered() {
    let inference = start(Config::default());
    let sums =
        join_all(
            (0_u8..200).map(|n| {
                let inference = &inference;
                async move {
                    run(inference, "add", add(n.into(), 1.0)).await.map(|(outputs, _)| values(&outputs[0].tensor)[0])
                }
            }),
        )
        .await;
    for (n, sum) in (0_u8..).zip(sums) {
        assert_eq!(sum.unwrap(), f32::from(n) + 1.0);
    }
    assert_eq!(inference.residency().models[0].runs, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_session_hands_over_what_waits() {
    let options = Options::plain(&Config::default()).unwrap();
    let load = || {
        let (sender, loaded) = std::sync::mpsc::channel();
        let ready = move |result: Result<Arc<Executor>, LoadError>| sender.send(result.unwrap()).unwrap();
        session::start(model("slow"), options.clone(), Source::Best, ready, |_| ()).unwrap();
        loaded.recv().unwrap()
    };
    let (old, new) = (load(), load());
    let (never, begun) = (CancellationToken::new(), Begun::default());
    let submit = |executor: &Arc<Executor>, request| {
        let ticket = Arc::new(Ticket::new(soon(), never.clone()));
        let answer = executor.submit(1, request, &ticket, begun.callback()).map_err(|(_, _, why)| why);
        answer.map(|answer| (ticket, answer))
    };
    let (on_old, old_answer) = submit(&old, endless()).unwrap();
    let (on_new, _) = submit(&new, endless()).unwrap();
    until("both work", || begun.times() == 2).await;
    let (_, waits) = submit(&old, slow(1)).unwrap();
    let (leaver, left) = submit(&old, slow(1)).unwrap();
    assert!(old.hand_over(&new));
    assert_eq!(submit(&old, slow(1)).err(), Some(Refused::Closed));
    // Who waited on the old one leaves the new one, whose current run is none of its business.
    assert!(!old.leave(&leaver));
    assert!(left.await.is_err(), "its inputs are dropped at once");
    assert!(new.leave(&on_new));
    assert!(waits.await.unwrap().is_ok(), "it ran on the new one");
    assert_eq!(begun.times(), 3);
    // The old one's run was never disturbed.
    assert!(old.idle().is_none());
    assert!(old.leave(&on_old));
    assert!(old_answer.await.is_ok());
    assert!(!old.hand_over(&new), "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_is_refused_with_the_reason_where_the_library_lacks_it() {
    let inference = start(Config::default());
    if inference.info().providers.iter().any(|name| name == "CUDAExecutionProvider") {
        // With the CUDA build and no GPU the load must fail too; with one it must succeed. Never the CPU instead.
        let result = inference.load_model(Model { device: Device::Cuda, ..model("add") }, soon()).await;
        assert!(matches!(result, Ok(_) | Err(LoadError::NoDevice { .. } | LoadError::Failed { .. })), "{result:?}");
        return;
    }
    let error = inference.load_model(Model { device: Device::Cuda, ..model("add") }, soon()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, LoadError::NoDevice { device: "cuda", .. }), "{error:?}");
    assert!(text.contains("CUDAExecutionProvider") && text.contains("CPUExecutionProvider"), "{text}");
    assert_eq!(inference.residency().loads_total, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_in_one_process_share_the_library_and_nothing_else() {
    let first = start(Config::default());
    let second = start(Config { intra_op_threads: 3, ..Config::default() });
    run(&first, "add", add(1.0, 2.0)).await.unwrap();
    run(&second, "add", add(1.0, 2.0)).await.unwrap();
    assert_eq!((first.residency().loads_total, second.residency().loads_total), (1, 1));
    drop(first);
    assert!(run(&second, "add", add(1.0, 2.0)).await.is_ok());
    drop(second);
    // After the last has gone, too.
    let third = start(Config::default());
    assert!(run(&third, "add", add(1.0, 2.0)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let nowhere = Config { ort_dylib: Some("/nowhere/libonnxruntime.so".into()), ..Config::default() };
    assert!(matches!(Inference::start(nowhere), Err(StartError::NotFound { .. })));
    let wrong = Config { queue_runs_max: 0, ..Config::default() };
    let error = Inference::start(wrong).unwrap_err().to_string();
    assert!(error.contains("queue_runs_max"), "{error}");
}

#[test]
fn a_probe_describes_the_graph_and_says_what_is_wrong() {
    let (_, text) = crate::session::probe_load(&folder().join("slow.onnx"), &Config::default()).unwrap();
    let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(seen["inputs"][1], serde_json::json!({"name": "start", "type": "f32", "dimensions": [64, 64]}));
    let (_, text) = crate::session::probe_load(&folder().join("add.onnx"), &Config::default()).unwrap();
    assert!(text.contains(r#""dimensions":["n"]"#), "{text}");
    let error = crate::session::probe_load(&folder().join("nothing.onnx"), &Config::default()).unwrap_err();
    assert!(!error.contains('/'), "{error}");
}

/// A call may be cancelled while its task is not polled: the executor must not begin its run, nor charge it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_in_the_queue_never_begins() {
    let inference = start(Config::default());
    inference.load_model(model("slow"), soon()).await.unwrap();
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let (begun, never) = (Begun::default(), Begun::default());
    let mut running = Box::pin(inference.run_model(model("slow"), endless(), by(&first), begun.callback()));
    assert!(futures::poll!(&mut running).is_pending());
    until("begun", || begun.times() == 1).await;
    let mut waiting = Box::pin(inference.run_model(model("slow"), slow(1), by(&second), never.callback()));
    assert!(futures::poll!(&mut waiting).is_pending());
    second.cancel();
    first.cancel();
    assert!(matches!(running.await, Err(RunError::Stopped { started: true })));
    // `waiting` has not been polled since: whatever runs after it, it did not.
    assert!(run(&inference, "slow", slow(1)).await.is_ok());
    assert_eq!(never.times(), 0);
    assert!(matches!(waiting.await, Err(RunError::Stopped { started: false })));
}

/// What the model in `file` makes of `inputs`, bit for bit.
async fn bits(file: &Path, inputs: &[(&str, Tensor)]) -> Vec<u8> {
    let inference = start(Config::default());
    let model = Model { file: file.to_owned(), ..model("add") };
    let (result, _) = run_until(&inference, model, request(inputs, &["y"]), soon(), &CancellationToken::new()).await;
    result.unwrap().0[0].tensor.bytes().to_vec()
}

/// A model of weights in the main graph, in both branches of an `If`, and in a `Constant`.
fn branches(size: usize) -> Vec<u8> {
    use crate::package::wire::{branch, field, floats, graph, int, model, node, value};
    let dims = [size as u64];
    let series = |from: f32| (0..size).map(|at| from + at as f32 / 7.0).collect::<Vec<f32>>();
    let arm = |op: &str, name: &str, from: f32| {
        graph(&[node(op, &["sum", name], "z", &[])], &[floats(name, &series(from))], &[], &[value("z", 1, &dims)])
    };
    let arms = [branch("then_branch", &arm("Mul", "a", 1.5)), branch("else_branch", &arm("Sub", "b", -3.0))];
    let constant = [field(1, b"value"), field(5, &floats("c", &series(0.25))), int(20, 4)].concat();
    let nodes = [
        node("Constant", &[], "c", &[constant]),
        node("Add", &["x", "w"], "first", &[]),
        node("Add", &["first", "c"], "sum", &[]),
        node("If", &["which"], "y", &arms),
    ];
    let inputs = [value("x", 1, &dims), value("which", 9, &[])];
    model(&graph(&nodes, &[floats("w", &series(2.0))], &inputs, &[value("y", 1, &dims)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_beside_the_graph_give_the_same_bits() {
    let size = 1 << 18;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, branches(size)).unwrap();
    let (package, _stored) = crate::package::tests::stored(&file);
    let weights = package.weights();
    assert_eq!(weights.beside, 3 * 4 * size as u64, "the graph's and its branches' weights");
    assert!(weights.graph < 4 * size as u64 + 2000, "the constant stays: {weights:?}");
    let x: Vec<f32> = (0..size).map(|at| (at % 1000) as f32 / 3.0).collect();
    for which in [0_u8, 1] {
        let inputs =
            [("x", f32s(&[size as u32], &x)), ("which", Tensor::from_bytes(ElementType::Bool, &[], &[which]).unwrap())];
        assert_eq!(bits(&file, &inputs).await, bits(&package.graph_path(), &inputs).await, "{which}");
    }
}

#[test]
fn only_models_of_f32_wake_on_their_files_as_they_are() {
    use crate::package::wire::{field, floats, graph, int, model, node, value};
    let integers = [int(1, 8), int(1, 8192), int(2, 2), field(8, b"q"), field(9, &[3; 8 * 8192])].concat();
    let shape = [int(1, 4), int(2, 7), field(8, b"s"), field(9, &[0; 32])].concat();
    let of = |weights: &[Vec<u8>]| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.onnx");
        let nodes = [node("Mul", &["x", "w"], "y", &[])];
        let dims = [1 << 18];
        std::fs::write(&file, model(&graph(&nodes, weights, &[value("x", 1, &dims)], &[value("y", 1, &dims)])))
            .unwrap();
        let (package, _stored) = crate::package::tests::stored(&file);
        [Device::Cpu, Device::Cuda].map(|device| package.model(device).wakes_plain)
    };
    let large = floats("w", &vec![1.0; 1 << 18]);
    assert_eq!(of(&[large.clone(), shape]), [true, false]);
    assert_eq!(of(&[large, integers]), [false, false], "quantized weights have to be packed");
    assert_eq!(of(&[floats("w", &[1.0; 4096])]), [false, false], "weights inside the graph");
}
