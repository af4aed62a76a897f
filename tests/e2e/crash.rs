//! `kill -9` at bad moments, then a restart: nothing half, nothing lost.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, guest, tiny_model};

#[tokio::test]
async fn killed_in_mid_upload() {
    let mut server = Server::start();
    server.deploy_guest("kept", "hostile", json!({})).await;
    let wasm = guest("plain");
    let half = wasm[..wasm.len() / 2].to_vec();
    let pieces = futures::stream::unfold(0, move |step| {
        let half = half.clone();
        async move {
            if step == 0 {
                return Some((Ok::<_, std::io::Error>(half), 1));
            }
            tokio::time::sleep(Duration::from_secs(30)).await;
            None
        }
    });
    let upload = tokio::spawn(
        server.api(Method::PUT, "/projects/default/artifacts").body(reqwest::Body::wrap_stream(pieces)).send(),
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    assert!(upload.await.unwrap().is_err(), "the upload did not succeed");
    server.restart();
    let staging = server.folder.path().join("data/node/staging");
    assert_eq!(std::fs::read_dir(staging).map_or(0, Iterator::count), 0, "half an upload is cleaned away");
    assert_eq!(server.call(Method::GET, "/d/default/kept/echo").send().await.unwrap().status(), 200);
    server.deploy_guest("again", "plain", json!({})).await;
}

#[tokio::test]
async fn killed_in_mid_answer() {
    let mut server = Server::start();
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.deploy_guest("nn", "hostile", json!({ "models": { "rows": "rows" } })).await;
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
    let counted = server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap();
    assert_eq!(counted.status(), 200);

    let mut response = server.call(Method::GET, "/d/default/nn/stream?frames=1000&ms=20").send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(response.chunk().await.unwrap().is_some());
    server.kill();
    while let Ok(Some(_)) = response.chunk().await {}
    server.restart();

    let usage = server.get("/usage?group_by=deployment").await;
    assert_eq!(usage["data"][0]["usage"]["rows"], 1, "what was settled before is still there: {usage}");
    // A call that had nothing durable to lose may have left no row; one that has a row has ended.
    let record = server.api(Method::GET, &format!("/requests/{id}")).send().await.unwrap();
    if record.status() == 200 {
        let record: Value = record.json().await.unwrap();
        assert_eq!(
            (record["ended"].as_bool(), record["outcome"].as_str()),
            (Some(true), Some("host_crash")),
            "{record}"
        );
    }
    assert_eq!(server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let mut server = Server::start();
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.deploy_guest("one", "hostile", json!({ "models": { "m": "rows" }, "config": { "k": "v" } })).await;
    server.deploy_guest("two", "plain", json!({})).await;
    let before = (server.get("/projects/default/deployments").await, server.get("/models").await);
    let strip = |mut value: Value, server: &Server| {
        let text = value.to_string().replace(&server.data, "");
        value = serde_json::from_str(&text).unwrap();
        for item in value["data"].as_array_mut().unwrap() {
            item.as_object_mut().unwrap().remove("tier");
        }
        value
    };
    let before = (strip(before.0, &server), before.1);
    server.restart();
    let after = (strip(server.get("/projects/default/deployments").await, &server), server.get("/models").await);
    assert_eq!(before, after);
    assert_eq!(server.call(Method::GET, "/d/default/one/config").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn damaged_compiled_code_is_made_again() {
    let mut server = Server::start();
    server.deploy_guest("one", "hostile", json!({})).await;
    server.kill();
    let folder = server.folder.path().join("data/node/code");
    let mut damaged = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "cwasm") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    server.restart();
    assert_eq!(server.call(Method::GET, "/d/default/one/echo").send().await.unwrap().status(), 200);
}

/// Names of the files of compiled code, and of their checksums.
fn code_files(server: &Server) -> Vec<String> {
    let folder = server.folder.path().join("data/node/code");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".cwasm") || name.ends_with(".sum")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn another_engine_compiles_again_and_leaves_nothing_of_the_old_one() {
    let mut server = Server::start();
    server.deploy_guest("one", "hostile", json!({})).await;
    let ours = code_files(&server);
    assert_eq!(ours.len(), 2, "{ours:?}");
    server.kill();
    // As an earlier version would have left them: the same component for another engine.
    let folder = server.folder.path().join("data/node/code");
    for name in &ours {
        let (digest, rest) = name.split_once('-').unwrap();
        let (_, extension) = rest.split_once('.').unwrap();
        let old = format!("{digest}-{}.{extension}", "0".repeat(32));
        std::fs::rename(folder.join(name), folder.join(old)).unwrap();
    }
    server.restart();
    assert_eq!(code_files(&server), Vec::<String>::new(), "code of another engine is of no use here");
    assert_eq!(server.call(Method::GET, "/d/default/one/echo").send().await.unwrap().status(), 200);
    assert_eq!(code_files(&server), ours);
}

#[tokio::test]
async fn compiled_code_of_no_deployment_is_swept() {
    let mut server = Server::start();
    server.deploy_guest("one", "hostile", json!({})).await;
    server.deploy_guest("two", "plain", json!({})).await;
    let both = code_files(&server);
    assert_eq!(both.len(), 4, "{both:?}");
    // A file of ours that no record knows, as a deletion on another node would leave.
    let folder = server.folder.path().join("data/node/code");
    let (_, rest) = both[0].split_once('-').unwrap();
    std::fs::copy(folder.join(&both[0]), folder.join(format!("{}-{rest}", "ab".repeat(32)))).unwrap();
    server.kill();
    server.restart();
    assert_eq!(code_files(&server), both, "the stray file is gone, the rest stays");
    for name in ["one/echo", "two/x"] {
        let response = server.call(Method::GET, &format!("/d/default/{name}")).send().await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
        assert_eq!(response.headers()["x-mayfly-cold"], "code", "mapped, not compiled again");
    }
}
