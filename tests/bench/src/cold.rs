//! From a deployment at rest to the first byte of its answer, over loopback HTTP.
//!
//! Every call goes to another deployment with code of its own, after a restart: record, code and instance are all cold.
//! The files are in the page cache. The peer column is the same call once more, with the code mapped.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::Bench;
use crate::measure::Samples;
use crate::row::Row;
use crate::server::{Server, deploy, upload};

pub(crate) const P50: &str = "cold_code_first_byte";
pub(crate) const P99: &str = "cold_code_first_byte_p99";
pub(crate) const FLOOR: &str = "cold_code_floor";

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = if bench.quick { 40 } else { 200 };
    let wasm = std::fs::read(bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/plain.wasm"))?;
    let mut server = Server::start(bench, &[])?;
    {
        let mut admin = server.connect_admin()?;
        for index in 0..count {
            let digest = upload(&mut admin, &with_custom_section(&wasm, index))?;
            deploy(&mut admin, &format!("cold-{index}"), &json!({ "handler": { "digest": digest } }))?;
        }
    }
    server.restart()?;

    let mut connection = server.connect()?;
    // The connection and the key are warm, the deployments are not.
    let unknown = connection.call("GET", "/d/default/nobody/", b"")?;
    ensure!(unknown.status == 404, "an unknown deployment answered {}", unknown.status);
    let (mut cold, mut warm, mut floor) = (Samples::default(), Samples::default(), Samples::default());
    for index in 0..count {
        let path = format!("/d/default/cold-{index}/");
        let first = connection.call("GET", &path, b"")?;
        ensure!(
            first.status == 200,
            "cold-{index} answered {}: {}",
            first.status,
            String::from_utf8_lossy(&first.body)
        );
        ensure!(first.header("x-mayfly-cold") == Some("code"), "cold-{index} was {:?}", first.header("x-mayfly-cold"));
        cold.push(first.first_byte);
        let parts = ["code", "instance", "guest"].map(|part| first.timing(part));
        floor.push(parts.into_iter().sum::<Option<Duration>>().context("`Server-Timing` lacks a part")?);
        let second = connection.call("GET", &path, b"")?;
        ensure!(second.header("x-mayfly-cold") == Some("instance"), "cold-{index} was cold twice");
        warm.push(second.first_byte);
    }
    let kilobytes = wasm.len() / 1024;
    let row = |name, q, target, limit| {
        let (ours, peer) = (cold.quantile_ms(q), warm.quantile_ms(q));
        Row {
            name,
            ours: Some(ours),
            peer: Some(peer),
            unit: "ms",
            ratio: Some(ours / peer),
            target,
            pass: ours < limit,
            note: format!(
                "of {count} deployments, each its own {kilobytes} KB component, after a restart; peer: the same call with code mapped"
            ),
        }
    };
    let told = floor.median_ms();
    Ok(vec![
        row(P50, 0.5, "p50 < 0.6 ms", 0.6),
        row(P99, 0.99, "p99 < 3 ms", 3.0),
        Row {
            name: FLOOR,
            ours: Some(told),
            peer: None,
            unit: "ms",
            ratio: None,
            target: "p50 at most 0.2 ms",
            pass: told <= 0.2,
            note: format!(
                "code, instance and guest of the same calls, as `Server-Timing` tells; p99 {:.2} ms",
                floor.quantile_ms(0.99)
            ),
        },
    ])
}

/// The same component with another digest: a custom section that nothing reads.
pub(crate) fn with_custom_section(wasm: &[u8], index: u32) -> Vec<u8> {
    let mut section = vec![5];
    section.extend_from_slice(b"bench");
    section.extend_from_slice(&index.to_le_bytes());
    let mut bytes = wasm.to_vec();
    bytes.push(0);
    bytes.push(u8::try_from(section.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(&section);
    bytes
}
