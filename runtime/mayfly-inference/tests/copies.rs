//! Prepacked copies: made at import or in the background by a child process, taken up without losing a run, and never
//! in the way. This binary is its own child, as `mayfly` is.
//!
//! Needs ONNX Runtime's library, which the set-up scripts put in place (`MAYFLY_ORT_DYLIB` names another).
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/weights.rs"]
mod weights;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use mayfly_inference::{
    Caller, Config, CopySettings, Device, ElementType, ImportPolicy, Inference, Package, RunLimits, RunStats, Tensor,
    import, prepare_process, probe_in_child,
};
use mayfly_types::{Digest, ModelId};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

fn main() {
    prepare_process();
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|first| first == "__probe-model") {
        std::process::exit(probe_in_child(&args[2..]));
    }
    let trial = |name: &str, test: fn(Scene)| {
        Trial::test(name, move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let _inside = runtime.enter();
            test(Scene::new());
            Ok(())
        })
    };
    let mut trials = vec![
        trial("an_import_leaves_a_copy_and_runs_give_the_same", an_import_leaves_a_copy_and_runs_give_the_same),
        trial("a_small_model_has_no_copy", a_small_model_has_no_copy),
        trial("a_model_without_a_copy_runs_at_once", a_model_without_a_copy_runs_at_once),
        trial("going_over_to_the_copy_loses_no_run", going_over_to_the_copy_loses_no_run),
        trial("a_damaged_copy_goes_and_the_package_runs", a_damaged_copy_goes_and_the_package_runs),
        trial("a_copy_that_does_not_load_goes", a_copy_that_does_not_load_goes),
        trial("another_versions_copy_is_not_used_and_is_swept", another_versions_copy_is_not_used_and_is_swept),
        trial("a_copy_that_fails_spoils_no_import", a_copy_that_fails_spoils_no_import),
        trial("without_a_copy_it_goes_over_to_packed_weights", without_a_copy_it_goes_over_to_packed_weights),
        trial("the_child_ends_with_its_host", the_child_ends_with_its_host),
        trial("switched_off_there_are_none", switched_off_there_are_none),
    ];
    if let Some(models) = std::env::var_os("MAYFLY_TEST_MODELS") {
        let folder = PathBuf::from(models).join("minilm");
        trials.push(Trial::test("minilm_embeds_the_same_on_its_copy", move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let _inside = runtime.enter();
            minilm_embeds_the_same_on_its_copy(&Scene::new(), &folder);
            Ok(())
        }));
    }
    // One after the other: some look at the memory of the process.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit();
}

/// Folders of one node.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn copies(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn exe() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    /// A node that starts on these folders.
    fn start(&self, config: Config) -> Inference {
        self.start_with_child(config, Self::exe())
    }

    fn start_with_child(&self, config: Config, child: PathBuf) -> Inference {
        let (folder, timeout) = (self.copies(), Duration::from_secs(60));
        Inference::start_with(config, Some(CopySettings { folder, child, timeout, bytes_max: 8 << 30 }), None).unwrap()
    }

    /// A model with 64 MiB of weights that differ.
    fn source(&self) -> PathBuf {
        let source = self.folder.path().join("source");
        weights::write(&source);
        source
    }

    fn import(&self, source: &Path, policy: ImportPolicy, child: &Path) -> Arc<Package> {
        let dest = self.folder.path().join("packages");
        let imported = import(source, &dest, &policy, child).unwrap();
        Arc::new(Package::open(&dest.join(imported.digest.hex())).unwrap())
    }

    /// As an older server has left it.
    fn import_without_copy(&self) -> Arc<Package> {
        self.import(&self.source(), ImportPolicy::default(), &Self::exe())
    }

    fn import_with_copy(&self, inference: &Inference) -> Arc<Package> {
        let policy = ImportPolicy { copies: inference.copies().cloned(), ..ImportPolicy::default() };
        self.import(&self.source(), policy, &Self::exe())
    }

    /// The one copy there is, or none.
    fn copy(&self) -> Option<PathBuf> {
        let mut copies: Vec<_> = fs::read_dir(self.copies()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(copies.len() < 2, "{copies:?}");
        copies.pop()
    }

    /// A child that loads as it should, and then does `instead` of the copy.
    fn child_with_copies_that(&self, instead: &str) -> PathBuf {
        let file = self.folder.path().join("child.sh");
        let exe = Self::exe();
        fs::write(&file, format!("#!/bin/sh\n'{}' $1 $2 $3 $4 $5 $6\n{instead}\n", exe.display())).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One row that `seed` tells from others.
fn row(seed: u16) -> Vec<(String, Tensor)> {
    let bytes: Vec<u8> =
        (0..4096_u16).flat_map(|at| (f32::from(at % 97) / f32::from(seed + 1)).to_le_bytes()).collect();
    vec![("x".to_owned(), Tensor::from_bytes(ElementType::F32, &[1, 4096], &bytes).unwrap())]
}

async fn run(inference: &Inference, package: &Arc<Package>, inputs: Vec<(String, Tensor)>) -> (Vec<Vec<u8>>, RunStats) {
    let limits = RunLimits { output_bytes_max: 1 << 30, all_positions: true };
    let prepared = package.prepare(ModelId::new(), inputs, limits).unwrap();
    let never = CancellationToken::new();
    let (outputs, stats) = inference
        .run(package, Device::Cpu, prepared, Caller { owner: 1, deadline: soon(), cancel: &never }, || {})
        .await
        .unwrap();
    (outputs.iter().map(|output| output.tensor.bytes().to_vec()).collect(), stats)
}

fn run_row(inference: &Inference, package: &Arc<Package>, seed: u16) -> Vec<Vec<u8>> {
    wait(run(inference, package, row(seed))).0
}

/// What the package itself gives, on a server without copies.
fn expected(package: &Arc<Package>, seed: u16) -> Vec<Vec<u8>> {
    run_row(&Inference::start(Config::default()).unwrap(), package, seed)
}

/// With weights that are not packed sums are made in another order: the last bits of an f32 may differ.
fn close(left: &[Vec<u8>], right: &[Vec<u8>]) {
    let values = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    assert_eq!(left.len(), right.len());
    for (left, right) in left.iter().zip(right) {
        let (left, right) = (values(left), values(right));
        assert_eq!(left.len(), right.len());
        let apart = left
            .iter()
            .zip(&right)
            .map(|(left, right)| (left - right).abs() / right.abs().max(1.0))
            .fold(0.0, f32::max);
        assert!(apart < 1e-5, "{apart} apart");
    }
}

/// Sessions loaded and dropped since the start.
fn sessions(inference: &Inference) -> (u64, u64) {
    let residency = inference.residency();
    (residency.loads_total, residency.unloads_total)
}

fn an_import_leaves_a_copy_and_runs_give_the_same(scene: Scene) {
    let inference = scene.start(Config::default());
    let package = scene.import_with_copy(&inference);
    assert_eq!(inference.copies().unwrap().stored().unwrap(), [package.digest()]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&scene.copies()), mode(&scene.copy().unwrap().join("weights.bin"))), (0o700, 0o400));
    assert_eq!(run_row(&inference, &package, 1), expected(&package, 1));
    let resident = &inference.residency().models[0];
    assert!(resident.bytes < 32 << 20, "its 64 MiB of weights are mapped: {} bytes", resident.bytes);
    assert_eq!(sessions(&inference), (1, 0), "it runs on the copy from the start");
    inference.copies().unwrap().remove(package.digest()).unwrap();
    assert_eq!(run_row(&inference, &package, 2), expected(&package, 2), "what is mapped stays");
}

fn a_small_model_has_no_copy(scene: Scene) {
    let inference = scene.start(Config::default());
    let policy = ImportPolicy { copies: inference.copies().cloned(), ..ImportPolicy::default() };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/rows.onnx");
    let package = scene.import(&source, policy, &Scene::exe());
    wait(inference.load(&package, Device::Cpu, soon())).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((scene.copy(), sessions(&inference)), (None, (1, 0)));
}

fn a_model_without_a_copy_runs_at_once(scene: Scene) {
    let package = scene.import_without_copy();
    let inference = scene.start(Config::default());
    let first = run_row(&inference, &package, 1);
    close(&first, &expected(&package, 1));
    until("the session is replaced", || sessions(&inference) == (2, 1));
    let residency = inference.residency();
    assert_eq!(residency.models.len(), 1);
    assert!(residency.models[0].bytes < 32 << 20, "{:?}", residency.models[0]);
    let (outputs, stats) = wait(run(&inference, &package, row(1)));
    close(&outputs, &first);
    assert_eq!(stats.load, None, "nobody waits for the copy");
    assert_eq!(inference.residency().models[0].runs, 1, "it ran on the new session");
    // The next start has it from the beginning.
    drop(inference);
    let inference = scene.start(Config::default());
    run_row(&inference, &package, 1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sessions(&inference), (1, 0));
}

fn going_over_to_the_copy_loses_no_run(scene: Scene) {
    let package = scene.import_without_copy();
    let expected: Vec<_> = (0..8).map(|seed| expected(&package, seed)).collect();
    let inference = scene.start(Config::default());
    let callers: Vec<_> = (0..8_u16)
        .map(|seed| {
            let (inference, package) = (inference.clone(), Arc::clone(&package));
            let expected = expected[usize::from(seed)].clone();
            tokio::spawn(async move {
                // Well past the change: while it is on, and some runs on the new session.
                let (mut runs, mut after) = (0_u64, 0);
                while after < 10 {
                    let (outputs, stats) = run(&inference, &package, row(seed)).await;
                    close(&outputs, &expected);
                    assert!(runs == 0 || stats.load.is_none(), "a load was waited for");
                    runs += 1;
                    after += u32::from(sessions(&inference).0 == 2);
                    assert!(runs < 100_000, "it was never replaced");
                }
                runs
            })
        })
        .collect();
    let total: u64 = callers.into_iter().map(|caller| wait(caller).unwrap()).sum();
    until("the old session is gone", || sessions(&inference) == (2, 1));
    let residency = inference.residency();
    assert!(residency.models[0].runs >= 72 && residency.models[0].runs < total, "{residency:?} of {total}");
    assert!(residency.models[0].idle.is_some());
}

/// Writes a file of a copy anew, as a broken disk might.
fn spoil(file: &Path, with: &[u8]) {
    fs::remove_file(file).unwrap();
    fs::write(file, with).unwrap();
}

/// A start on a spoilt copy: the package runs, no copy is made in this start, and one is in the next.
fn recovers(scene: &Scene, package: &Arc<Package>) {
    let inference = scene.start(Config::default());
    assert_eq!(run_row(&inference, package, 1), expected(package, 1));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((scene.copy(), sessions(&inference)), (None, (1, 0)), "it is gone and not made again at once");
    drop(inference);
    let inference = scene.start(Config::default());
    close(&run_row(&inference, package, 1), &expected(package, 1));
    until("there is a copy again", || sessions(&inference) == (2, 1));
    assert_eq!(run_row(&inference, package, 1), expected(package, 1));
}

fn a_damaged_copy_goes_and_the_package_runs(scene: Scene) {
    let package = scene.import_with_copy(&scene.start(Config::default()));
    let copy = scene.copy().unwrap();
    for (file, with) in [("weights.bin", &b"short"[..]), ("model.onnx", b"not a graph"), ("copy.json", b"")] {
        spoil(&copy.join(file), with);
        recovers(&scene, &package);
    }
}

fn a_copy_that_does_not_load_goes(scene: Scene) {
    let package = scene.import_with_copy(&scene.start(Config::default()));
    let copy = scene.copy().unwrap();
    // It fits its manifest.
    let graph = b"not a graph";
    let weights = fs::metadata(copy.join("weights.bin")).unwrap().len();
    let manifest = format!(
        r#"{{"format":1,"graph_bytes":{},"graph_sha256":"{}","weights_bytes":{weights}}}"#,
        graph.len(),
        Digest::of(graph)
    );
    spoil(&copy.join("model.onnx"), graph);
    spoil(&copy.join("copy.json"), manifest.as_bytes());
    recovers(&scene, &package);
}

fn another_versions_copy_is_not_used_and_is_swept(scene: Scene) {
    let package = scene.import_with_copy(&scene.start(Config::default()));
    let copy = scene.copy().unwrap();
    let name = copy.file_name().unwrap().to_str().unwrap().to_owned();
    let older = scene.copies().join(name.replacen(mayfly_inference::ORT_VERSION, "1.30.0", 1));
    assert_ne!(older, copy);
    fs::rename(&copy, &older).unwrap();
    // If it were used, this would show.
    spoil(&older.join("model.onnx"), b"not a graph");
    let off = scene.start(Config { prepack: false, ..Config::default() });
    assert_eq!(off.copies().unwrap().stored().unwrap(), []);
    assert_eq!(scene.copy(), None, "swept");
    let inference = scene.start(Config::default());
    close(&run_row(&inference, &package, 1), &expected(&package, 1));
    until("it has a copy of its own", || scene.copy() == Some(copy.clone()));
}

fn a_copy_that_fails_spoils_no_import(scene: Scene) {
    let inference = scene.start(Config::default());
    let policy = ImportPolicy { copies: inference.copies().cloned(), ..ImportPolicy::default() };
    // Dies after its answer, as at a limit.
    let child = scene.child_with_copies_that("kill -9 $$");
    let package = scene.import(&scene.source(), policy, &child);
    assert_eq!(scene.copy(), None);
    assert_eq!(run_row(&inference, &package, 1), expected(&package, 1));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((scene.copy(), sessions(&inference)), (None, (1, 0)), "not tried again in this start");
}

fn without_a_copy_it_goes_over_to_packed_weights(scene: Scene) {
    let package = scene.import_without_copy();
    let child = scene.child_with_copies_that("sleep 1; exit 1");
    let inference = scene.start_with_child(Config::default(), child);
    close(&run_row(&inference, &package, 1), &expected(&package, 1));
    let bytes = inference.residency().models[0].bytes;
    assert!(bytes < 32 << 20, "its 64 MiB of weights are mapped: {bytes} bytes");
    until("the session is replaced", || sessions(&inference) == (2, 1));
    let bytes = inference.residency().models[0].bytes;
    assert!(bytes >= 50 << 20, "its weights are packed: {bytes} bytes");
    assert_eq!(run_row(&inference, &package, 2), expected(&package, 2));
}

fn the_child_ends_with_its_host(scene: Scene) {
    let package = scene.import_without_copy();
    let child = scene.child_with_copies_that("exec sleep 600");
    let inference = scene.start_with_child(Config::default(), child);
    run_row(&inference, &package, 1);
    until("a copy is being made", || scene.copy().is_some());
    // Meanwhile it runs on the package's files, with nothing packed.
    let resident = &inference.residency().models[0];
    assert!(resident.bytes < 32 << 20, "its 64 MiB of weights are mapped: {} bytes", resident.bytes);
    close(&run_row(&inference, &package, 2), &expected(&package, 2));
    drop(inference);
    until("its draft is gone", || scene.copy().is_none());
}

fn switched_off_there_are_none(scene: Scene) {
    let inference = scene.start(Config { prepack: false, ..Config::default() });
    let package = scene.import_with_copy(&inference);
    run_row(&inference, &package, 1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((scene.copy(), sessions(&inference)), (None, (1, 0)));
}

fn minilm_embeds_the_same_on_its_copy(scene: &Scene, folder: &Path) {
    let inference = scene.start(Config { intra_op_threads: 2, ..Config::default() });
    let policy = ImportPolicy { copies: inference.copies().cloned(), ..ImportPolicy::default() };
    let package = scene.import(folder, policy, &Scene::exe());
    assert!(scene.copy().is_some());
    let plain = Inference::start(Config { intra_op_threads: 2, ..Config::default() }).unwrap();
    let inputs = |tokens: u32| -> Vec<(String, Tensor)> {
        let tensor = |name: &str| {
            let value = |at: u32| match name {
                "input_ids" => i64::from(1000 + at * 37),
                "attention_mask" => 1,
                _ => 0,
            };
            let bytes: Vec<u8> = (0..tokens).flat_map(|at| value(at).to_le_bytes()).collect();
            Tensor::from_bytes(ElementType::I64, &[1, tokens], &bytes).unwrap()
        };
        package.info().inputs.iter().map(|input| (input.name.clone(), tensor(&input.name))).collect()
    };
    for tokens in [1, 8, 100] {
        let (on_copy, _) = wait(run(&inference, &package, inputs(tokens)));
        let (on_package, _) = wait(run(&plain, &package, inputs(tokens)));
        assert_eq!(on_copy, on_package, "{tokens} tokens");
    }
    let added = |inference: &Inference| inference.residency().models[0].bytes;
    let (on_copy, on_package) = (added(&inference), added(&plain));
    assert!(on_copy < on_package, "its weights are mapped: {on_copy} and {on_package} bytes");
}
