//! What a call that is held open costs in memory: a thousand of them, each in an instance of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::row::Row;
use crate::server::{Server, deploy, upload};

pub(crate) const NAME: &str = "live_instances_1000";
const INSTANCES: usize = 1_000;
const KIB: f64 = 1024.0;

#[expect(clippy::cast_precision_loss, reason = "bytes of one process fit")]
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let wasm = std::fs::read(bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/hostile.wasm"))?;
    let server = Server::start(bench, &[("MAYFLY_CALLS__CALLS_PER_DEPLOYMENT_MAX", "2000")])?;
    let mut admin = server.connect_admin()?;
    let spec = json!({ "handler": { "digest": upload(&mut admin, &wasm)? }, "limits": { "deadline_ms_max": 600_000 } });
    deploy(&mut admin, "held", &spec)?;

    // All that is set up on first use is there before the count begins.
    for _ in 0..20 {
        let mut connection = connect(&server)?;
        send(&mut connection, &server, "/d/default/held/stream?frames=2&ms=100")?;
        until(&mut connection, b"0\r\n\r\n")?;
    }
    let empty = server.memory_bytes()?;
    let mut connections = (0..INSTANCES).map(|_| connect(&server)).collect::<anyhow::Result<Vec<_>>>()?;
    for connection in &mut connections {
        send(connection, &server, "/d/default/none/")?;
        until(connection, b"}")?;
    }
    let connected = server.memory_bytes()?;
    for connection in &mut connections {
        send(connection, &server, "/d/default/held/stream?frames=2&ms=590000&bytes=16")?;
        // Its first frame: the handler has run, and waits.
        until(connection, b"................\r\n")?;
    }
    let answer = admin.call("GET", "/api/v1/node", b"")?;
    let node: Value = serde_json::from_slice(&answer.body)?;
    ensure!(node["instances"].as_u64() == Some(INSTANCES as u64), "{node}");
    let held = server.memory_bytes()?;
    let each = |bytes: u64, before: u64| (bytes as f64 - before as f64) / INSTANCES as f64 / KIB;
    let (ours, connection) = (each(held, connected), each(connected, empty));
    Ok(vec![Row {
        name: NAME,
        ours: Some(ours),
        peer: None,
        unit: "KiB",
        ratio: None,
        target: "under 100 KiB each",
        pass: ours < 100.0,
        note: format!(
            "memory (its own and its share of shared pages) and page tables of the server, a stream held open after its first frame, over the same connections unused; a connection {connection:.1} KiB more"
        ),
    }])
}

fn connect(server: &Server) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(server.data()).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

fn send(connection: &mut TcpStream, server: &Server, path: &str) -> anyhow::Result<()> {
    let key = server.key();
    connection
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\r\n").as_bytes())?;
    Ok(())
}

/// Reads until what has come ends with `end`.
fn until(connection: &mut TcpStream, end: &[u8]) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    while !seen.ends_with(end) {
        let count = connection.read(&mut bytes)?;
        ensure!(count > 0, "the connection ended after {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&bytes[..count]);
    }
    Ok(())
}
