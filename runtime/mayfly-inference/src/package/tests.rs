//! Import as a whole, on the models of `tests/fixtures/models`, up to the child's first load (`tests/import.rs` has that).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mayfly_types::Digest;
use tempfile::TempDir;

use super::batching::RunBatching;
use super::import::stage;
use super::{ImportPolicy, ModelInfo, Package, Role, wire};
use crate::ImportError;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name)
}

/// Imports without the first load.
fn store(source: &Path, dest: &Path, policy: &ImportPolicy) -> Result<(Digest, ModelInfo), ImportError> {
    let (staged, description) = stage(source, dest, policy)?;
    let digest = staged.describe(&description)?;
    staged.commit(dest, digest)?;
    let mut info = description.info;
    RunBatching::alone("it was not tried when the model was imported").tell(&mut info);
    Ok((digest, info))
}

/// A stored package, and the folder that keeps it.
pub(crate) fn stored(source: &Path) -> (Package, TempDir) {
    let dest = TempDir::new().unwrap();
    let (digest, _) = store(source, dest.path(), &ImportPolicy::default()).unwrap();
    (Package::open(&dest.path().join(digest.hex())).unwrap(), dest)
}

pub(crate) fn refusal(source: &Path, policy: &ImportPolicy) -> String {
    let dest = TempDir::new().unwrap();
    let error = store(source, dest.path(), policy).expect_err("must be refused");
    assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 0, "something was left behind");
    let text = error.to_string();
    assert!(matches!(error, ImportError::Refused(_)), "{error:?}");
    assert!(!text.contains(&*dest.path().to_string_lossy()), "{text}");
    text
}

/// A folder of copies of fixtures: (name in the folder, fixture).
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, source) in files {
        let place = folder.path().join(name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(fixture(source), place).unwrap();
    }
    folder
}

fn roles(package: &Package) -> Vec<(&str, Role)> {
    let info = package.info();
    info.inputs.iter().chain(&info.outputs).map(|tensor| (tensor.name.as_str(), tensor.role)).collect()
}

pub(crate) fn property<'a>(package: &'a Package, key: &str) -> Option<&'a str> {
    package.info().properties.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[test]
fn bad_models_are_refused_by_name() {
    for (name, why) in [
        ("external_missing", "`nowhere.bin` is missing"),
        ("external_escaping", "leaves the package"),
        ("external_absolute", "leaves the package"),
        ("external_memory", "not accepted in paths"),
        ("external_short", "bytes 0..48"),
        ("operator_unknown", "`Frobnicate`"),
        ("operator_domain", "`com.example`"),
        ("operator_ep_context", "`EPContext`"),
        ("string_input", "element type string"),
        ("if_too_deep", "more than 8 deep"),
        ("huge_dims", "too large"),
        ("cut_short", "damaged or cut short"),
        ("not_a_model", "not an ONNX model"),
    ] {
        let text = refusal(&fixture("bad").join(format!("{name}.onnx")), &ImportPolicy::default());
        assert!(text.contains(why), "{name}: {text}");
    }
}

#[test]
fn every_cut_of_a_model_is_refused() {
    let whole = fs::read(fixture("decoder.onnx")).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    for cut in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..cut]).unwrap();
        let dest = TempDir::new().unwrap();
        // A cut between two fields of the model itself leaves a model; it lacks its operator sets and nothing of ours.
        match store(&path, dest.path(), &ImportPolicy::default()) {
            Ok(_) => assert!(cut > whole.len() - 8, "cut at {cut}"),
            Err(error) => assert!(matches!(error, ImportError::Refused(_)), "cut at {cut}: {error:?}"),
        }
    }
}

#[test]
fn any_damaged_byte_is_refused_or_harmless() {
    let whole = fs::read(fixture("if_8.onnx")).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    for at in (0..whole.len()).step_by(5) {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            fs::write(&path, &damaged).unwrap();
            let dest = TempDir::new().unwrap();
            // Whatever it became: an answer, not a panic.
            if let Err(error) = store(&path, dest.path(), &ImportPolicy::default()) {
                assert!(matches!(error, ImportError::Refused(_)), "byte {at}: {error:?}");
            }
        }
    }
}

#[test]
fn the_nesting_and_size_limits_are_the_policys() {
    let policy = ImportPolicy { subgraph_depth_max: 7, ..ImportPolicy::default() };
    assert!(refusal(&fixture("if_8.onnx"), &policy).contains("more than 7 deep"));
    stored(&fixture("if_8.onnx"));
    let policy = ImportPolicy { package_bytes_max: 200, ..ImportPolicy::default() };
    assert!(refusal(&fixture("rows_external.onnx"), &policy).contains("larger than 200 bytes"));
    let policy = ImportPolicy { files_max: 1, ..ImportPolicy::default() };
    assert!(refusal(&fixture("rows_external.onnx"), &policy).contains("more than 1 files"));
}

#[test]
fn links_and_special_files_are_refused() {
    let source = folder(&[("model.onnx", "rows_external.onnx")]);
    std::os::unix::fs::symlink(fixture("rows_external.bin"), source.path().join("rows_external.bin")).unwrap();
    assert!(refusal(source.path(), &ImportPolicy::default()).contains("`rows_external.bin` is a link"));

    let source = folder(&[("real.onnx", "rows.onnx")]);
    std::os::unix::fs::symlink("real.onnx", source.path().join("model.onnx")).unwrap();
    assert!(refusal(source.path(), &ImportPolicy::default()).contains("`model.onnx` is a link"));

    // A folder that is a link, on the way to a file.
    let source = TempDir::new().unwrap();
    let elsewhere = folder(&[("model.onnx", "rows.onnx")]);
    std::os::unix::fs::symlink(elsewhere.path(), source.path().join("onnx")).unwrap();
    assert!(refusal(source.path(), &ImportPolicy::default()).contains("is a link"));

    // A pipe: opening it must not wait.
    let source = folder(&[("model.onnx", "rows.onnx")]);
    let pipe = source.path().join("config.json");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(refusal(source.path(), &ImportPolicy::default()).contains("special file"));
}

#[test]
fn a_folder_without_one_model_is_refused() {
    let empty = TempDir::new().unwrap();
    assert!(refusal(empty.path(), &ImportPolicy::default()).contains("export the model to ONNX"));
    assert!(refusal(&empty.path().join("nothing"), &ImportPolicy::default()).contains("no file or folder"));
    let two = folder(&[("a.onnx", "rows.onnx"), ("b.onnx", "rows.onnx")]);
    assert!(refusal(two.path(), &ImportPolicy::default()).contains("2 `.onnx` files"));
    fs::write(empty.path().join("model.ort"), b"....ORTM").unwrap();
    assert!(refusal(empty.path(), &ImportPolicy::default()).contains("`.ort`"));
    fs::write(empty.path().join("model.onnx"), b"\x08\0\0\0ORTM").unwrap();
    assert!(refusal(empty.path(), &ImportPolicy::default()).contains("`.ort`"));
}

#[test]
fn external_data_comes_along_and_only_that() {
    let (package, dest) = stored(&fixture("rows_external.onnx"));
    let folder = dest.path().join(package.digest().hex());
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["package.json", "rows_external.bin", "rows_external.onnx"]);
    for name in names {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o444);
    }
}

#[test]
fn the_same_content_is_stored_once_and_another_name_is_another_package() {
    let dest = TempDir::new().unwrap();
    let policy = ImportPolicy::default();
    let (first, info) = store(&fixture("embedder"), dest.path(), &policy).unwrap();
    let (again, _) = store(&fixture("embedder"), dest.path(), &policy).unwrap();
    assert_eq!(first, again);
    assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 1);
    assert_eq!(Package::open(&dest.path().join(first.hex())).unwrap().info(), &info);
    let (other, _) = store(&fixture("encoder.onnx"), dest.path(), &policy).unwrap();
    assert_ne!(first, other);
}

#[test]
fn a_folder_tells_its_facts() {
    let (package, _dest) = stored(&fixture("embedder"));
    let info = package.info();
    assert_eq!((info.vocab_size, info.max_tokens, info.pad_id), (Some(8), Some(12), Some(0)));
    assert!(info.has_tokenizer);
    let expected = [
        ("batching", "no: it was not tried when the model was imported"),
        ("dimensions", "4"),
        ("max_tokens", "12"),
        ("normalize", "true"),
        ("pad_id", "0"),
        ("pooling", "mean"),
    ];
    let expected: Vec<_> = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(info.properties, expected);
    assert_eq!(package.description().token_types, Some(2));
    assert_eq!(
        roles(&package),
        [("input_ids", Role::Ids), ("attention_mask", Role::Mask), ("last_hidden_state", Role::Data)]
    );
}

#[test]
fn an_optimum_folder_keeps_its_layout() {
    let source = folder(&[("onnx/model.onnx", "decoder.onnx"), ("config.json", "embedder/config.json")]);
    fs::write(source.path().join("README.md"), "ignored").unwrap();
    let (package, _dest) = stored(source.path());
    assert!(package.graph_path().ends_with("onnx/model.onnx"));
    assert_eq!(
        package.description().files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["config.json", "onnx/model.onnx"]
    );
    assert_eq!(package.info().inputs[2].role, Role::Past);
    assert_eq!(package.info().outputs[0].role, Role::Logits);
    assert_eq!(package.info().outputs[1].role, Role::Present);
}

#[test]
fn model_toml_has_the_last_word() {
    let source = folder(&[("some.onnx", "rows.onnx")]);
    let toml = source.path().join("some.toml");
    fs::write(source.path().join("kinds.json"), r#"{"names": ["a", "b", "c"]}"#).unwrap();
    fs::write(&toml, "labels = { file = \"kinds.json\", key = \"names\" }\n[properties]\nbeg_size = 1024\n").unwrap();
    let (package, _dest) = stored(&source.path().join("some.onnx"));
    assert_eq!(property(&package, "labels"), Some(r#"["a","b","c"]"#));
    assert_eq!(property(&package, "beg_size"), Some("1024"));

    for (text, why) in [
        ("vocab = 1", "vocab"),
        ("[roles]\nz = \"ids\"", "no tensor `z`"),
        ("[roles]\nx = \"ids\"", "i32 or i64"),
        ("labels = { file = \"../../etc/passwd\" }", "not a path inside"),
        ("labels = { file = \"nowhere.json\" }", "is missing"),
        ("labels = { file = \"kinds.json\" }", "not a list of strings"),
        ("vocab_size = 4\npad_id = 4", "outside the vocabulary"),
    ] {
        fs::write(&toml, text).unwrap();
        let said = refusal(&source.path().join("some.onnx"), &ImportPolicy::default());
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn damage_to_a_stored_package_is_seen() {
    let (package, dest) = stored(&fixture("rows_external.onnx"));
    let folder = dest.path().join(package.digest().hex());
    let rewrite = |name: &str, bytes: &[u8]| {
        fs::remove_file(folder.join(name)).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    };
    let description = fs::read(folder.join("package.json")).unwrap();
    rewrite("package.json", &[&description[..], b" "].concat());
    assert!(Package::open(&folder).unwrap_err().to_string().contains("does not match the digest"));
    rewrite("package.json", &description);
    assert!(Package::open(&folder).is_ok());
    rewrite("rows_external.bin", b"short");
    assert!(Package::open(&folder).unwrap_err().to_string().contains("another size"));
    fs::remove_file(folder.join("rows_external.bin")).unwrap();
    assert!(Package::open(&folder).is_err());
}

#[test]
fn functions_of_the_models_own_are_accepted() {
    let (package, _dest) = stored(&fixture("function.onnx"));
    assert_eq!(roles(&package), [("x", Role::Data), ("y", Role::Data)]);
}

#[test]
fn states_are_paired() {
    let (package, _dest) = stored(&fixture("stateful.onnx"));
    assert_eq!(
        roles(&package),
        [("input", Role::Data), ("state", Role::State), ("output", Role::Data), ("stateN", Role::State)]
    );
}

#[test]
fn large_weights_lie_beside_the_graph() {
    let factors: Vec<f32> = (0..1 << 19).map(|at| at as f32).collect();
    let source = TempDir::new().unwrap();
    let file = source.path().join("model.onnx");
    fs::write(&file, wire::product(&factors)).unwrap();
    // A name that is taken already.
    fs::write(source.path().join("weights.bin"), [1; 4]).unwrap();
    let (package, _folder) = stored(&file);
    let names: Vec<_> = package.description().files.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
    assert!(matches!(names[..], [("model.onnx", graph), ("weights.bin", 2_097_152)] if graph < 1000), "{names:?}");
    let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    assert_eq!(fs::read(package.file_path("weights.bin")).unwrap(), bytes);
    assert_eq!(fs::read(&file).unwrap(), wire::product(&factors), "the source is as it was");

    // The same model is the same package, and a model of which nothing moves is stored as it came.
    let dest = TempDir::new().unwrap();
    let first = store(&file, dest.path(), &ImportPolicy::default()).unwrap().0;
    assert_eq!((first, store(&file, dest.path(), &ImportPolicy::default()).unwrap().0), (package.digest(), first));
    let small = wire::product(&[1.0; 1000]);
    fs::write(&file, &small).unwrap();
    let (package, _folder) = stored(&file);
    assert_eq!(fs::read(package.graph_path()).unwrap(), small);
    // Both forms are bounded: neither the copy nor what is made of it may be larger than a package.
    fs::write(&file, wire::product(&factors)).unwrap();
    let tight = ImportPolicy { package_bytes_max: 2 << 20, ..ImportPolicy::default() };
    assert!(refusal(&file, &tight).contains("2097152"));
}
