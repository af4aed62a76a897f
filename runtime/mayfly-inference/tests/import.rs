//! Import with its first load in a child process. This binary is its own child, as `mayfly` is.
//!
//! Needs ONNX Runtime's library, which the set-up scripts put in place (`MAYFLY_ORT_DYLIB` names another).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use mayfly_inference::{ImportError, ImportPolicy, Imported, Package, Role, RunBatching, import, probe_in_child};
use tempfile::TempDir;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|first| first == "__probe-model") {
        std::process::exit(probe_in_child(&args[2..]));
    }
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        trial("good_models_load_once_and_are_stored", good_models_load_once_and_are_stored),
        trial("whether_rows_can_be_joined_is_tried", whether_rows_can_be_joined_is_tried),
        trial("what_the_library_refuses_is_refused", what_the_library_refuses_is_refused),
        trial("a_chat_template_is_tried_by_the_child", a_chat_template_is_tried_by_the_child),
        trial("a_child_that_hangs_is_ended", a_child_that_hangs_is_ended),
        trial("a_child_without_memory_fails_alone", a_child_without_memory_fails_alone),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name)
}

fn import_into(dest: &Path, source: &Path, policy: &ImportPolicy) -> Result<Imported, ImportError> {
    import(source, dest, policy, &std::env::current_exe().unwrap())
}

fn nothing_left(dest: &TempDir) {
    assert_eq!(std::fs::read_dir(dest.path()).unwrap().count(), 0, "something was left behind");
}

fn good_models_load_once_and_are_stored() {
    let dest = TempDir::new().unwrap();
    let policy = ImportPolicy::default();
    for name in [
        "rows.onnx",
        "rows_external.onnx",
        "encoder.onnx",
        "decoder.onnx",
        "stateful.onnx",
        "types.onnx",
        "loop.onnx",
        "function.onnx",
        "if_8.onnx",
        "embedder",
        "decoder_genai",
        "decoder_optimum",
    ] {
        let imported =
            import_into(dest.path(), &fixture(name), &policy).unwrap_or_else(|error| panic!("{name}: {error}"));
        let package = Package::open(&dest.path().join(imported.digest.hex())).unwrap();
        assert_eq!(package.info(), &imported.info, "{name}");
    }
    let again = import_into(dest.path(), &fixture("decoder.onnx"), &policy).unwrap();
    assert_eq!(again.info.inputs[2].role, Role::Past);
    assert_eq!(std::fs::read_dir(dest.path()).unwrap().count(), 12);
}

fn whether_rows_can_be_joined_is_tried() {
    let dest = TempDir::new().unwrap();
    let batching = |name: &str| {
        let imported = import_into(dest.path(), &fixture(name), &ImportPolicy::default()).unwrap();
        Package::open(&dest.path().join(imported.digest.hex())).unwrap().batching().clone()
    };
    assert_eq!(batching("rows.onnx"), RunBatching::Rows);
    // Without a padding token it cannot be padded.
    assert_eq!(batching("encoder.onnx"), RunBatching::Rows);
    assert_eq!(batching("embedder"), RunBatching::Padded { by_position: vec!["last_hidden_state".to_owned()] });
    for (name, word) in
        [("stateful.onnx", "state"), ("loop.onnx", "Loop"), ("decoder.onnx", "state"), ("mixing.onnx", "beside them")]
    {
        let RunBatching::Alone { why } = batching(name) else { panic!("{name} was joined") };
        assert!(why.contains(word), "{name}: {why}");
    }
}

fn what_the_library_refuses_is_refused() {
    // Every check of ours passes: the shapes inside do not fit each other, which only the library finds.
    let source = TempDir::new().unwrap();
    let mut bytes = std::fs::read(fixture("rows.onnx")).unwrap();
    let op = bytes.windows(6).position(|window| window == b"MatMul").unwrap();
    bytes[op..op + 6].copy_from_slice(b"LpPool");
    std::fs::write(source.path().join("model.onnx"), bytes).unwrap();
    let dest = TempDir::new().unwrap();
    let error = import_into(dest.path(), source.path(), &ImportPolicy::default()).unwrap_err();
    assert!(matches!(&error, ImportError::Probe(text) if !text.contains('/')), "{error}");
    nothing_left(&dest);

    let source = TempDir::new().unwrap();
    std::fs::copy(fixture("encoder.onnx"), source.path().join("model.onnx")).unwrap();
    std::fs::write(source.path().join("tokenizer.json"), "{}").unwrap();
    let error = import_into(dest.path(), source.path(), &ImportPolicy::default()).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    nothing_left(&dest);
}

fn a_chat_template_is_tried_by_the_child() {
    let source = TempDir::new().unwrap();
    for entry in std::fs::read_dir(fixture("decoder_optimum")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), source.path().join(entry.file_name())).unwrap();
    }
    let dest = TempDir::new().unwrap();
    let policy = ImportPolicy { probe_bytes_max: 2 << 30, ..ImportPolicy::default() };
    // Constants are computed when a template is compiled: 400 times 90 MB.
    for (template, why) in
        [("{% for %}".to_owned(), "does not compile"), ("{{ 'x' * 90000000 }}".repeat(400), "signal")]
    {
        std::fs::write(source.path().join("chat_template.jinja"), template).unwrap();
        let error = import_into(dest.path(), source.path(), &policy).unwrap_err();
        assert!(matches!(&error, ImportError::Probe(text) if text.contains(why)), "{error:?}");
        nothing_left(&dest);
    }
}

fn a_child_that_hangs_is_ended() {
    let dest = TempDir::new().unwrap();
    let policy = ImportPolicy { probe_timeout: Duration::from_millis(300), ..ImportPolicy::default() };
    // A stand-in that takes the arguments and never answers.
    let hang = dest.path().with_extension("sh");
    std::fs::write(&hang, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&hang, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let began = Instant::now();
    let error = import(&fixture("rows.onnx"), dest.path(), &policy, &hang).unwrap_err();
    std::fs::remove_file(&hang).unwrap();
    assert!(error.to_string().contains("longer than"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30));
    nothing_left(&dest);
}

fn a_child_without_memory_fails_alone() {
    let dest = TempDir::new().unwrap();
    let policy = ImportPolicy { probe_bytes_max: 24 << 20, ..ImportPolicy::default() };
    let error = import_into(dest.path(), &fixture("rows.onnx"), &policy).unwrap_err();
    assert!(matches!(error, ImportError::Probe(_)), "{error:?}");
    nothing_left(&dest);
}
