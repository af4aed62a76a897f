//! Handlers written as text: what they import and a few helpers, then the body of `handle` that a test is about.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WORLD: &str = "
    package test:guest;
    world guest {
        include wasi:cli/imports@0.2.12;
        import wasi:http/types@0.2.12;
        import wasi:http/outgoing-handler@0.2.12;
        export wasi:http/incoming-handler@0.2.12;
    }";

/// Memory: results of imports at 0, text from 1024 on, the heap from 65536 on.
const PRELUDE: &str = r#"
    (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
    (import "wasi:http/types@0.2.12" "[method]fields.append" (func $append (param i32 i32 i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.12" "[constructor]outgoing-response" (func $new_response (param i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-response.set-status-code"
        (func $set_status (param i32 i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-response.body" (func $response_body (param i32 i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-body.write" (func $body_write (param i32 i32)))
    (import "wasi:http/types@0.2.12" "[static]outgoing-body.finish" (func $body_finish (param i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.12" "[resource-drop]outgoing-body" (func $drop_body (param i32)))
    (import "wasi:http/types@0.2.12" "[static]response-outparam.set"
        (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.12" "[method]incoming-request.consume" (func $consume (param i32 i32)))
    (import "wasi:http/types@0.2.12" "[method]incoming-body.stream" (func $incoming_stream (param i32 i32)))
    (import "wasi:http/types@0.2.12" "[constructor]outgoing-request" (func $new_request (param i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-authority"
        (func $set_authority (param i32 i32 i32 i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-path-with-query"
        (func $set_path (param i32 i32 i32 i32) (result i32)))
    (import "wasi:http/outgoing-handler@0.2.12" "handle" (func $send (param i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.12" "[method]future-incoming-response.get" (func $future_get (param i32 i32)))
    (import "wasi:http/types@0.2.12" "[method]future-incoming-response.subscribe"
        (func $future_subscribe (param i32) (result i32)))
    (import "wasi:io/streams@0.2.12" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))
    (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
        (func $stream_write (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $drop_stream (param i32)))
    (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
    (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $timer (param i64) (result i32)))
    (import "wasi:cli/stdout@0.2.12" "get-stdout" (func $stdout (result i32)))
    (import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))
    (import "wasi:cli/environment@0.2.12" "get-environment" (func $environment (param i32)))
    (import "wasi:filesystem/preopens@0.2.12" "get-directories" (func $directories (param i32)))

    (memory (export "memory") 2)
    (global $heap (mut i32) (i32.const 65536))
    (global $body (mut i32) (i32.const 0))
    (global $stream (mut i32) (i32.const 0))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
        (global.set $heap (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
    ;; The result at 0 must be ok.
    (func $ok (if (i32.load8_u (i32.const 0)) (then unreachable)))
    ;; Sets the response: its head goes out, its body is open.
    (func $open (param $out i32) (param $status i32) (param $fields i32)
        (local $response i32)
        (local.set $response (call $new_response (local.get $fields)))
        (if (call $set_status (local.get $response) (local.get $status)) (then unreachable))
        (call $response_body (local.get $response) (i32.const 0))
        (call $ok)
        (global.set $body (i32.load (i32.const 4)))
        (call $body_write (global.get $body) (i32.const 0))
        (call $ok)
        (global.set $stream (i32.load (i32.const 4)))
        (call $set (local.get $out) (i32.const 0) (local.get $response)
            (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
    (func $write (param $at i32) (param $len i32)
        (call $stream_write (global.get $stream) (local.get $at) (local.get $len) (i32.const 0))
        (call $ok))
    (func $finish
        (call $drop_stream (global.get $stream))
        (call $body_finish (global.get $body) (i32.const 0) (i32.const 0) (i32.const 0)))
    (func $sleep (param $nanos i64) (call $block (call $timer (local.get $nanos))))
    (func $header (param $fields i32) (param $name i32) (param $name_len i32) (param $value i32) (param $value_len i32)
        (call $append (local.get $fields) (local.get $name) (local.get $name_len)
            (local.get $value) (local.get $value_len) (i32.const 0))
        (call $ok))
    (data (i32.const 1024) "hello, world")
    (data (i32.const 1100) "content-length") (data (i32.const 1120) "5")
    (data (i32.const 1200) "x-request-id") (data (i32.const 1220) "x-own")
    (data (i32.const 1300) "line\n") (data (i32.const 1400) "example.test/")
"#;

/// A whole answer: `hello, world`.
pub(crate) const HELLO: &str = "
    (call $open (local.get 1) (i32.const 200) (call $fields))
    (call $write (i32.const 1024) (i32.const 12))
    (call $finish)";

/// A component whose `handle` is `body`: its parameters are the request and the response-outparam.
pub(crate) fn handler(body: &str) -> Vec<u8> {
    handler_with("", body)
}

/// As [`handler`], with more at module level.
pub(crate) fn handler_with(items: &str, body: &str) -> Vec<u8> {
    encode(&format!(
        "(module {PRELUDE} {items}
            (func (export \"wasi:http/incoming-handler@0.2.12#handle\") (param i32 i32) {body}))"
    ))
}

fn encode(text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    resolve.push_dir(&wit).unwrap();
    let package = resolve.push_str("guest.wit", WORLD).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}
