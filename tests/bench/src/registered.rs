//! What deployments at rest cost: resident memory after a restart, with ten thousand of them against with one.

use serde_json::json;

use crate::Bench;
use crate::row::Row;
use crate::server::{Server, deploy, upload};

pub(crate) const NAME: &str = "registered_10000_memory";
const MIB: f64 = 1024.0 * 1024.0;

#[expect(clippy::cast_precision_loss, reason = "bytes of one process fit")]
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    // Always ten thousand: with fewer the figure would say nothing.
    let wasm = std::fs::read(bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/plain.wasm"))?;
    let mut server = Server::start(bench, &[])?;
    let mut admin = server.connect_admin()?;
    let spec = json!({ "handler": { "digest": upload(&mut admin, &wasm)? } });
    deploy(&mut admin, "first", &spec)?;
    drop(admin);
    let one = resident_after_restart(&mut server)?;

    let mut admin = server.connect_admin()?;
    for index in 1..10_000 {
        deploy(&mut admin, &format!("rest-{index}"), &spec)?;
    }
    drop(admin);
    let all = resident_after_restart(&mut server)?;
    let added = (all as f64 - one as f64) / MIB;
    Ok(vec![Row {
        name: NAME,
        ours: Some(added),
        peer: Some(one as f64 / MIB),
        unit: "MiB",
        ratio: Some(all as f64 / one as f64),
        target: "at most 10 MiB more",
        pass: added <= 10.0,
        note: "resident memory that 9,999 more deployments add after a restart and one call; peer: the whole server with one".to_owned(),
    }])
}

/// After one call, so that all that is set up on first use is there in both.
fn resident_after_restart(server: &mut Server) -> anyhow::Result<u64> {
    server.restart()?;
    let mut connection = server.connect()?;
    for _ in 0..20 {
        anyhow::ensure!(
            connection.call("GET", "/d/default/first/", b"")?.status == 200,
            "the first deployment does not answer"
        );
    }
    server.resident_bytes()
}
