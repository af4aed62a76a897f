//! Uploads: what fits, what is refused and why, and what is done about damaged code.

use std::path::PathBuf;
use std::sync::Arc;

use mayfly_host::{CodeError, CompileError, Config, Host};
use mayfly_types::Digest;

use crate::guest::{HELLO, handler};
use crate::scene::{NoData, Scene};
use crate::trials;

trials![
    a_component_is_described,
    the_same_bytes_are_compiled_once,
    wrong_files,
    cut_off_anywhere,
    wrong_world,
    too_large,
    too_costly,
    too_much_memory_for_a_slot,
    damaged_code_is_compiled_again,
    missing_code,
    two_hosts_in_one_process,
    code_is_found_after_a_restart,
    a_broken_child_is_our_fault,
    idle_code_goes
];

async fn a_component_is_described() {
    let scene = Scene::new();
    let wasm = handler(HELLO);
    let (info, digest) = scene.compile(&wasm).await.unwrap();
    assert_eq!(info.exports, ["wasi:http/incoming-handler@0.2.12"]);
    assert!(info.imports.contains(&"wasi:http/types@0.2.12".to_owned()), "{info:?}");
    assert!(info.bytes == wasm.len() as u64 && info.code_bytes > info.bytes, "{info:?}");
    assert!(scene.host.has_code(digest));
}

fn files(scene: &Scene) -> Vec<(String, std::time::SystemTime)> {
    let mut files: Vec<_> = std::fs::read_dir(scene.code_folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap()))
        .collect();
    files.sort();
    files
}

async fn the_same_bytes_are_compiled_once() {
    let scene = Scene::new();
    let first = scene.compile(&handler(HELLO)).await.unwrap();
    let before = files(&scene);
    assert_eq!(before.len(), 3, "code, checksum and key: {before:?}");
    assert_eq!(scene.compile(&handler(HELLO)).await.unwrap(), first);
    assert_eq!(files(&scene), before);
}

async fn refused(scene: &Scene, wasm: &[u8]) -> String {
    match scene.compile(wasm).await {
        Err(CompileError::Refused(text)) => text,
        other => panic!("should be refused: {other:?}"),
    }
}

async fn wrong_files() {
    let scene = Scene::new();
    let module = wat::parse_str("(module)").unwrap();
    for (bytes, expect) in [
        (&b""[..], "not a WebAssembly component"),
        (b"#!/bin/sh", "not a WebAssembly component"),
        (b"\0asm", "cut off"),
        (&module, "wasm32-wasip2"),
    ] {
        let text = refused(&scene, bytes).await;
        assert!(text.contains(expect), "{text}");
    }
    assert_eq!(files(&scene).len(), 1, "only the key is left");
}

async fn cut_off_anywhere() {
    let scene = Scene::new();
    let wasm = handler(HELLO);
    for part in [9, wasm.len() / 3, wasm.len() / 2, wasm.len() - 1] {
        refused(&scene, &wasm[..part]).await;
    }
    let mut damaged = wasm.clone();
    damaged[wasm.len() / 2..].fill(0xff);
    refused(&scene, &damaged).await;
    scene.compile(&wasm).await.unwrap();
}

async fn wrong_world() {
    let scene = Scene::new();
    let wasm = wat::parse_str(
        r#"(component
            (import "wasi:blobstore/blobstore@0.2.0" (instance))
            (import "wasi:http/types@0.3.0" (instance)))"#,
    )
    .unwrap();
    let text = refused(&scene, &wasm).await;
    for expect in ["wasi:blobstore/blobstore@0.2.0", "wasi:http/types@0.3.0", "wasi:http/incoming-handler@0.2.x"] {
        assert!(text.contains(expect), "{text}");
    }
    // The right names with wrong types inside.
    let wasm = wat::parse_str(
        r#"(component
            (import "wasi:random/random@0.2.0" (instance (export "get-random-bytes" (func (param "len" string)))))
            (instance $handler)
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#,
    )
    .unwrap();
    let text = refused(&scene, &wasm).await;
    assert!(text.contains("does not fit this host"), "{text}");
}

async fn too_large() {
    let scene = Scene::with(Config { instances_max: 8, component_bytes_max: 100, ..Config::default() });
    let text = refused(&scene, &handler(HELLO)).await;
    assert!(text.contains("component_bytes_max = 100"), "{text}");
}

async fn too_costly() {
    // Not enough address space to compile in.
    let scene = Scene::with(Config { instances_max: 8, compile_bytes_max: 96 << 20, ..Config::default() });
    let body = "(drop (i32.add (i32.const 1) (i32.const 2)))".repeat(400_000);
    let error = scene.compile(&handler(&body)).await.unwrap_err();
    assert!(matches!(&error, CompileError::TooCostly { limit } if limit == "96 MiB of memory"), "{error:?}");
    assert_eq!(files(&scene).len(), 1);

    // A child that neither computes nor answers is stopped by the clock. One second, four times over.
    let scene = Scene::new();
    let wait = scene.folder.path().join("wait.sh");
    script(&wait, "exec sleep 3600");
    let config = Config { instances_max: 8, compile_seconds_max: 1, ..Config::default() };
    let host = Host::start(config, scene.code_folder(), wait, Arc::new(NoData)).unwrap();
    let error = host.compile(&scene.folder.path().join("any"), Digest::of(b"any")).await.unwrap_err();
    assert!(matches!(&error, CompileError::TooCostly { limit } if limit == "4 s"), "{error:?}");
}

fn script(path: &PathBuf, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\nPATH=/bin:/usr/bin\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

async fn too_much_memory_for_a_slot() {
    let config = Config { instances_max: 8, instance_memory_bytes_max: 65_536, ..Config::default() };
    let text = refused(&Scene::with(config), &handler(HELLO)).await;
    assert!(text.contains("memory"), "{text}");
}

async fn damaged_code_is_compiled_again() {
    let scene = Scene::new();
    let (_, digest) = scene.compile(&handler(HELLO)).await.unwrap();
    let code = std::fs::read_dir(scene.code_folder()).unwrap().map(|entry| entry.unwrap().path());
    let code = code.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "cwasm")).unwrap();
    let mut bytes = std::fs::read(&code).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&code, bytes).unwrap();
    assert!(matches!(scene.host.code(digest).await, Err(CodeError::Damaged)));
    scene.compile(&handler(HELLO)).await.unwrap();
    scene.answer(&handler(HELLO)).await.end.result.unwrap();
}

async fn missing_code() {
    let scene = Scene::new();
    let digest = Digest::of(b"never uploaded");
    assert!(!scene.host.has_code(digest));
    assert!(matches!(scene.host.code(digest).await, Err(CodeError::Missing)));
}

async fn two_hosts_in_one_process() {
    let (one, two) = (Scene::new(), Scene::new());
    let (_, digest) = one.compile(&handler(HELLO)).await.unwrap();
    assert!(one.host.has_code(digest) && !two.host.has_code(digest));
    two.answer(&handler(HELLO)).await.end.result.unwrap();
    drop(one);
    two.check_healthy().await;
}

async fn code_is_found_after_a_restart() {
    let scene = Scene::new();
    let (_, digest) = scene.compile(&handler(HELLO)).await.unwrap();
    let config = Config { instances_max: 8, ..Config::default() };
    let again = Host::start(config, scene.code_folder(), std::env::current_exe().unwrap(), Arc::new(NoData)).unwrap();
    assert!(again.has_code(digest) && again.code(digest).await.unwrap().1);
}

async fn a_broken_child_is_our_fault() {
    let scene = Scene::new();
    for text in ["exit 3", "echo '{\"done\":'", "kill -SEGV $$"] {
        let child = scene.folder.path().join("child.sh");
        script(&child, text);
        let config = Config { instances_max: 8, ..Config::default() };
        let host = Host::start(config, scene.code_folder(), child, Arc::new(NoData)).unwrap();
        let error = host.compile(&scene.folder.path().join("any"), Digest::of(b"any")).await.unwrap_err();
        assert!(matches!(error, CompileError::Host { .. }), "{error:?}");
        assert_eq!(error.to_string(), "the component could not be compiled on this host");
    }
}

async fn idle_code_goes() {
    let scene = Scene::with(Config { instances_max: 8, code_idle_ms: 50, ..Config::default() });
    let (_, digest) = scene.compile(&handler(HELLO)).await.unwrap();
    scene.host.code(digest).await.unwrap();
    // Nobody asks for it: the host's own thread must drop it.
    while !scene.host.stats().mapped.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(scene.host.code(digest).await.unwrap().1, "mapped anew");
}
