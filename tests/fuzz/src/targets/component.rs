//! Uploaded components through the real compiling child. What is accepted is run once: whatever it does, the host must
//! not be at fault.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use mayfly_host::CompileError;
use mayfly_types::{Digest, GuestLimits};
use tokio::runtime::Runtime;

use super::Target;
use super::nn::scene::{Scene, Went};

const WORLD: &str = "
    package fuzz:guest;
    world guest {
        include wasi:cli/imports@0.2.12;
        import wasi:http/types@0.2.12;
        import wasi:nn/tensor@0.2.0-rc-2024-10-28;
        import wasi:nn/graph@0.2.0-rc-2024-10-28;
        export wasi:http/incoming-handler@0.2.12;
    }";

/// Answers with an empty body.
const ANSWER: &str = r#"(module
    (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
    (import "wasi:http/types@0.2.12" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[static]response-outparam.set"
        (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (memory (export "memory") 1 4)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
    (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
        (call $set (local.get 1) (i32.const 0) (call $response (call $fields))
            (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))"#;

/// Tables, globals, floats, vectors, bulk memory, a start function: more for the compiler to look at.
const MUCH: &str = r#"(module
    (import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[resource-drop]tensor" (func $drop (param i32)))
    (type $unary (func (param i32) (result i32)))
    (memory (export "memory") 1 4)
    (table $t 4 8 funcref)
    (elem (i32.const 0) $double $double)
    (data $d "some text that is copied")
    (global $g (mut i64) (i64.const 7))
    (func $double (type $unary) (i32.mul (local.get 0) (i32.const 2)))
    (func $start
        (memory.init $d (i32.const 16) (i32.const 0) (i32.const 8))
        (memory.copy (i32.const 32) (i32.const 16) (i32.const 8))
        (global.set $g (i64.add (global.get $g) (i64.const 1))))
    (start $start)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
    (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
        (local $i i32) (local $f f64)
        (loop $l
            (local.set $f (f64.sqrt (f64.convert_i32_u (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 10))))
        (drop (call_indirect $t (type $unary) (local.get $i) (i32.const 1)))
        (v128.store (i32.const 64) (i32x4.splat (local.get $i)))
        (drop (memory.grow (i32.const 1)))
        (call $exit (i32.const 0))))"#;

pub(crate) struct ComponentTarget {
    runtime: Runtime,
    scene: Scene,
    seeds: Vec<Vec<u8>>,
    notes: BTreeMap<&'static str, u64>,
}

impl ComponentTarget {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let limits = GuestLimits {
            guest_cpu_ms_max: 100,
            deadline_ms_max: 2_000,
            memory_bytes_max: 8 << 20,
            ..GuestLimits::default()
        };
        let scene = runtime.block_on(async { Scene::new(limits) })?;
        let mut seeds = vec![component(root, ANSWER)?, component(root, MUCH)?];
        let wat = root.join("tests/fixtures/guests/wat");
        for entry in std::fs::read_dir(&wat).context("the guests written as text")? {
            seeds.push(wat::parse_file(entry?.path())?);
        }
        Ok(Self { runtime, scene, seeds, notes: BTreeMap::new() })
    }

    fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }
}

fn component(root: &Path, text: &str) -> anyhow::Result<Vec<u8>> {
    use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
    let mut module = wat::parse_str(text)?;
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_dir(root.join("wit"))?;
    let package = resolve.push_str("guest.wit", WORLD)?;
    let world = resolve.select_world(&[package], Some("guest"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().module(&module)?.validate(true).encode()
}

impl Target for ComponentTarget {
    fn seeds(&self) -> Vec<Vec<u8>> {
        self.seeds.clone()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\0asm\x0d\0\x01\0",
            b"\0asm\x01\0\0\0",
            b"wasi:http/incoming-handler@0.2.12",
            b"wasi:http/types@0.2.12",
            b"wasi:cli/exit@0.2.12",
            b"wasi:nn/tensor@0.2.0-rc-2024-10-28",
            b"cabi_realloc",
            b"memory",
            b"handle",
            b"\xff\xff\xff\xff\x0f",
            b"\x80\x80\x80\x80\x08",
            b"\x40",
            b"\x03\x40\x0c\x00\x0b",
            b"\xfc\x0a",
            b"\xfd\x0f",
            b"\x0b",
        ]
    }

    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let digest = Digest::of(input);
        let compiled = self.runtime.block_on(self.scene.compile(input, digest));
        match compiled {
            Ok(_) => self.note("accepted"),
            Err(CompileError::Refused(text)) => {
                self.note("refused");
                let fit = !text.is_empty() && text.len() < 20_000 && !text.chars().any(|c| c.is_control() && c != '\n');
                return if fit { Ok(()) } else { Err(format!("a refusal that is not fit to be read\n{text:?}")) };
            }
            Err(CompileError::TooCostly { .. }) => {
                self.note("too costly");
                return Ok(());
            }
            Err(CompileError::Host { detail }) => return Err(format!("an upload that is a fault of ours: {detail}")),
        }
        let went = self.runtime.block_on(self.scene.call(digest, Vec::new(), false));
        let removed = self.runtime.block_on(self.scene.forget(digest));
        match went? {
            Went::Answered(..) => self.note("answered"),
            Went::Failed(_) => self.note("failed"),
        }
        removed
    }

    fn notes(&self) -> BTreeMap<&'static str, u64> {
        self.notes.clone()
    }
}
