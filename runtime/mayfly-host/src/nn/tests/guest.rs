//! Guests written as text, and the packages and the state they run on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_inference::{Config, Device, Inference, Package};
use mayfly_types::{Digest, GuestLimits, ModelId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};

use super::account::Account;
use crate::nn::{NnState, NnView, link};
use crate::{Clock, Grant, Grants};

/// Everything the guests use. `run` answers with a status (0, or 100 and the error's code) and bytes or the error's text.
const WORLD: &str = "
    package test:guest;
    world guest {
        import wasi:nn/tensor@0.2.0-rc-2024-10-28;
        import wasi:nn/graph@0.2.0-rc-2024-10-28;
        import wasi:nn/inference@0.2.0-rc-2024-10-28;
        import wasi:nn/errors@0.2.0-rc-2024-10-28;
        import mayfly:inference/models@0.1.0;
        import mayfly:inference/tokenizer@0.1.0;
        import wasi:config/store@0.2.0-rc.1;
        export run: func() -> tuple<u32, list<u8>>;
    }";

/// Memory: texts below 1024, the answer at 1024, results of calls at 1040, tensors from 2048, inputs from 3072.
const PRELUDE: &str = r#"
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[constructor]tensor"
        (func $tensor (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.data" (func $data (param i32 i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.dimensions" (func $dimensions (param i32 i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.ty" (func $ty (param i32) (result i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[resource-drop]tensor" (func $drop (param i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load" (func $load (param i32 i32 i32 i32 i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load-by-name" (func $load_by_name (param i32 i32 i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "[method]graph.init-execution-context" (func $init (param i32 i32)))
    (import "wasi:nn/inference@0.2.0-rc-2024-10-28" "[method]graph-execution-context.compute"
        (func $compute (param i32 i32 i32 i32)))
    (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[method]error.code" (func $code (param i32) (result i32)))
    (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[method]error.data" (func $text (param i32 i32)))
    (import "mayfly:inference/models@0.1.0" "granted" (func $granted (param i32)))
    (import "mayfly:inference/models@0.1.0" "describe" (func $describe (param i32 i32 i32)))
    (import "mayfly:inference/models@0.1.0" "run-many" (func $run_many (param i32 i32 i32 i32 i32)))
    (import "mayfly:inference/tokenizer@0.1.0" "count" (func $count (param i32 i32 i32 i32 i32)))
    (import "wasi:config/store@0.2.0-rc.1" "get" (func $get (param i32 i32 i32)))
    (memory (export "memory") 8)
    (global $heap (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
        (global.set $heap (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
    ;; The answer: an error.
    (func $fail (param $error i32) (result i32)
        (i32.store (i32.const 1024) (i32.add (i32.const 100) (call $code (local.get $error))))
        (call $text (local.get $error) (i32.const 1028))
        (i32.const 1024))
    ;; The answer: a tensor's bytes.
    (func $answer (param $tensor i32) (result i32)
        (i32.store (i32.const 1024) (i32.const 0))
        (call $data (local.get $tensor) (i32.const 1028))
        (i32.const 1024))
    ;; A context of the model `m`, or a trap.
    (func $context (result i32)
        (call $load_by_name (i32.const 0) (i32.const 1) (i32.const 1040))
        (if (i32.load8_u (i32.const 1040)) (then unreachable))
        (call $init (i32.load (i32.const 1044)) (i32.const 1040))
        (if (i32.load8_u (i32.const 1040)) (then unreachable))
        (i32.load (i32.const 1044)))
    ;; A vector of `len` f32 out of `bytes` bytes, all 1.5.
    (func $vector (param $len i32) (param $bytes i32) (result i32)
        (i32.store (i32.const 2048) (local.get $len))
        (call $tensor (i32.const 2048) (i32.const 1) (i32.const 1) (i32.const 2064) (local.get $bytes)))
    ;; Input number `at`: the name at `name` (one letter) and a tensor.
    (func $input (param $at i32) (param $name i32) (param $tensor i32)
        (local $place i32)
        (local.set $place (i32.add (i32.const 3072) (i32.mul (local.get $at) (i32.const 12))))
        (i32.store (local.get $place) (local.get $name))
        (i32.store offset=4 (local.get $place) (i32.const 1))
        (i32.store offset=8 (local.get $place) (local.get $tensor)))
    ;; Runs the model `m` on the first `count` inputs and answers with its first output.
    (func $run (param $count i32) (result i32)
        (call $compute (call $context) (i32.const 3072) (local.get $count) (i32.const 1040))
        (if (result i32) (i32.load8_u (i32.const 1040))
            (then (call $fail (i32.load (i32.const 1044))))
            (else (call $answer (i32.load offset=8 (i32.load (i32.const 1044)))))))
    (data (i32.const 0) "m") (data (i32.const 4) "x") (data (i32.const 8) "y") (data (i32.const 12) "no-such-model")
    (data (i32.const 2064) "\00\00\c0\3f\00\00\c0\3f\00\00\c0\3f\00\00\c0\3f")
"#;

/// Adds two vectors.
pub(super) const ADD: &str = r#"
    (call $input (i32.const 0) (i32.const 4) (call $vector (i32.const 2) (i32.const 8)))
    (call $input (i32.const 1) (i32.const 8) (call $vector (i32.const 2) (i32.const 8)))
    (call $run (i32.const 2))"#;

/// A component whose `run` is `body`, after [`PRELUDE`].
fn component(engine: &Engine, body: &str) -> Component {
    let text = format!("(module {PRELUDE} (func (export \"run\") (result i32) {body}))");
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    resolve.push_path(wit).unwrap();
    let package = resolve.push_str("guest.wit", WORLD).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    let bytes = wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    Component::new(engine, bytes).unwrap()
}

/// The description of a one-dimensional tensor.
pub(super) fn tensor_json(name: &str, element_type: &str, role: &str) -> Value {
    json!({
        "name": name, "element_type": element_type, "role": role,
        "dimensions": [{"named": format!("{name}_size")}],
    })
}

/// A stored package around a fixture: what an import would have written.
pub(super) fn package(fixture: &str, inputs: &[Value], outputs: &[Value]) -> (TempDir, Arc<Package>) {
    let folder = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/runtime");
    let graph = format!("{fixture}.onnx");
    let bytes = std::fs::read(models.join(&graph)).unwrap();
    std::fs::write(folder.path().join(&graph), &bytes).unwrap();
    let description = json!({
        "format": 1,
        "graph": graph,
        "files": [{"path": graph, "sha256": Digest::of(&bytes), "bytes": bytes.len()}],
        "info": {
            "inputs": inputs, "outputs": outputs, "has_tokenizer": false, "vocab_size": null, "max_tokens": null,
            "pad_id": null, "properties": [["labels", "[]"]], "bytes": bytes.len(),
        },
        "token_types": null, "embeddings": null, "unshaped": [],
    });
    std::fs::write(folder.path().join("package.json"), description.to_string()).unwrap();
    let package = Arc::new(Package::open(folder.path()).unwrap());
    (folder, package)
}

#[derive(Debug)]
struct Data {
    table: ResourceTable,
    nn: NnState,
}

/// One request: its account, its limits, what it was granted.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) account: Arc<Account>,
    pub(super) limits: GuestLimits,
    pub(super) deadline: Instant,
    pub(super) cancel: CancellationToken,
    pub(super) clock: Clock,
    pub(super) grants: Grants,
    pub(super) _folder: TempDir,
}

/// What a guest answered: status and bytes, or its trap.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) result: Result<(u32, Vec<u8>), String>,
    /// Bytes of tensors the guest still held at its end.
    pub(super) live_bytes: u64,
}

impl Answer {
    /// Status and text.
    pub(super) fn text(&self) -> (u32, String) {
        let (status, bytes) = self.result.as_ref().unwrap();
        (*status, String::from_utf8(bytes.clone()).unwrap())
    }

    pub(super) fn trap(&self) -> &str {
        self.result.as_ref().unwrap_err()
    }
}

impl Request {
    /// Granted `add` as `m`, nothing refused.
    pub(super) fn new() -> Self {
        let inputs = [tensor_json("x", "f32", "data"), tensor_json("y", "f32", "data")];
        let (folder, package) = package("add", &inputs, &[tensor_json("z", "f32", "data")]);
        let grant = Grant {
            model: ModelId::new(),
            name: "adder".parse().unwrap(),
            package,
            device: Device::Cpu,
            place: crate::Place::Server,
            all_positions: false,
        };
        Self {
            account: Arc::new(Account::default()),
            limits: GuestLimits::default(),
            deadline: Instant::now() + Duration::from_secs(60),
            cancel: CancellationToken::new(),
            clock: Clock::default(),
            grants: Grants {
                models: BTreeMap::from([("m".parse().unwrap(), grant)]),
                config: BTreeMap::from([("x".to_owned(), "a value".to_owned())]),
                ..Grants::default()
            },
            _folder: folder,
        }
    }

    /// What its store will hold.
    pub(super) fn state(&self) -> (ResourceTable, NnState) {
        let inference = Inference::start(Config::default()).expect("ONNX Runtime's library: set MAYFLY_ORT_DYLIB");
        let nn = NnState::new(
            inference,
            Arc::new(self.grants.clone()),
            Arc::clone(&self.account) as _,
            Arc::new(self.limits.clone()),
            self.deadline,
            self.cancel.clone(),
            self.clock.clone(),
        );
        let mut table = ResourceTable::new();
        table.set_max_capacity(usize::try_from(self.limits.handles_max).unwrap());
        (table, nn)
    }

    /// Runs a guest with this body to its end.
    pub(super) async fn run(&self, body: &str) -> Answer {
        let (table, nn) = self.state();
        let engine = Engine::default();
        let mut linker = Linker::<Data>::new(&engine);
        link(&mut linker, |data| NnView { table: &mut data.table, nn: &mut data.nn }).unwrap();
        let mut store = Store::new(&engine, Data { table, nn });
        let instance = linker.instantiate_async(&mut store, &component(&engine, body)).await.unwrap();
        let run = instance.get_typed_func::<(), ((u32, Vec<u8>),)>(&mut store, "run").unwrap();
        let result = run.call_async(&mut store, ()).await;
        Answer {
            result: result.map(|(answer,)| answer).map_err(|trap| format!("{trap:?}")),
            live_bytes: store.data().nn.live.used(),
        }
    }
}
