//! A store that cannot be written: a server does not start on it; one that runs refuses what it cannot keep, delivers
//! nothing that is not kept, and goes on once it can.

use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{BINARY, Server, guest, header};

const FRAME_BYTES: usize = 64;

#[tokio::test]
async fn a_server_does_not_start_on_a_read_only_store() {
    let mut server = Server::start_metered(&[]).await;
    server.kill();
    let data = server.folder.path().join("data");
    // In a mount namespace of its own, gone with the process.
    let in_namespace = |then: &str| {
        let mut command = Command::new("unshare");
        let script = format!("mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && {then}");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).arg(&data);
        command
    };
    if !in_namespace("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this system lets nobody mount in a namespace of its own");
        return;
    }
    let started = in_namespace("exec \"$@\"")
        .arg(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&started.stderr);
    assert!(!started.status.success() && started.stdout.is_empty(), "{text}");
    assert!(text.contains("data folder") && text.contains("Read-only file system"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    // It was left as it was.
    server.restart();
    assert_eq!(server.call(Method::POST, "/d/default/meter/?rows=1").send().await.unwrap().status(), 200);
}

/// Rows of the meter in an answer that was whole; none if it was refused, which says why.
async fn call(server: &Server) -> Option<i64> {
    let response = server.call(Method::POST, "/d/default/meter/?rows=3").send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    if status == 200 {
        return Some(3);
    }
    let problem: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status} {text}"));
    assert_eq!((status, problem["error"]["code"].as_str()), (507, Some("storage_unavailable")), "{text}");
    assert!(!text.contains(server.folder.path().to_str().unwrap()), "no host path: {text}");
    None
}

#[tokio::test]
async fn a_store_that_turns_read_only_refuses_and_loses_nothing() {
    let (server, faults) = Server::start_with_faults(&[]);
    let mut server = server.metered().await;
    server.price("rows", "1");
    let mut delivered = 0;
    for _ in 0..3 {
        delivered += call(&server).await.unwrap();
    }
    let mut stream = server.call(Method::GET, "/d/default/meter/?frames=200&rows=1&ms=20").send().await.unwrap();
    let id = header(&stream, "x-request-id");
    let mut bytes = stream.chunk().await.unwrap().unwrap().len();

    faults.read_only(true);
    let broken = loop {
        match stream.chunk().await {
            Ok(Some(more)) => bytes += more.len(),
            Ok(None) => break false,
            Err(_cut) => break true,
        }
    };
    assert!(broken, "a stream whose usage cannot be kept has no proper end");
    for _ in 0..10 {
        assert_eq!(call(&server).await, None, "no answer leaves without its row");
    }
    let (status, problem) = server.upload(guest("plain")).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (507, Some("storage_unavailable")), "{problem}");
    let limits = json!({ "concurrency": 5 });
    let response = server.api(Method::PUT, "/projects/default/limits").json(&limits).send().await.unwrap();
    assert_eq!(response.status(), 507);
    assert_eq!(server.get("/projects/default/limits").await, json!({}), "what needs no writing goes on");
    assert!(server.is_alive());

    faults.read_only(false);
    server
        .eventually("it can be written again", async || match call(&server).await {
            Some(rows) => {
                delivered += rows;
                true
            }
            None => false,
        })
        .await;
    let record = server.settled(&id).await;
    let frames = i64::try_from(bytes.div_ceil(FRAME_BYTES)).unwrap();
    let billed = record["usage"]["rows"].as_i64().unwrap_or(0);
    let check = async |server: &Server| {
        let usage = server.get("/usage").await;
        assert_eq!(usage["total"]["usage"]["rows"], json!(delivered + billed), "{usage}");
        assert_eq!(usage["total"]["cost"], (delivered + billed).to_string(), "{usage}");
        let report = server.cli_json(&["ledger", "verify"]);
        assert_eq!((&report["ok"], &report["open"]), (&json!(true), &json!(0)), "{report}");
    };
    // The host failed it: it is void, whatever had left.
    assert_eq!((&record["outcome"], billed), (&json!("host_fault"), 0), "{frames} frames were read: {record}");
    check(&server).await;
    server.kill();
    server.restart();
    check(&server).await;
    assert_eq!(call(&server).await, Some(3));
}
