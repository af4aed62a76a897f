//! Starting, stopping, and two servers on one folder.

use std::fs;
use std::process::Command;

use mayfly_inference::LargePages;
use reqwest::Method;
use serde_json::json;

use crate::harness::{BINARY, Server, header};

#[tokio::test]
async fn a_stop_lets_open_calls_finish() {
    let mut server = Server::start();
    server.deploy_guest("slow", "hostile", json!({})).await;
    let call = tokio::spawn(server.call(Method::GET, "/d/default/slow/stream?frames=10&ms=100").send());
    server.eventually("the call is open", async || server.get("/node").await["calls_open"] == 1).await;
    let response = call.await.unwrap().unwrap();
    let body = tokio::spawn(response.bytes());
    let status = tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(body.await.unwrap().unwrap().len(), 160, "the whole answer came");
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let server = Server::start();
    let output = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(server.folder.path().join("data"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another"), "{text}");
}

#[tokio::test]
async fn models_get_large_pages_where_the_system_gives_them() {
    let told = |server: &Server| {
        let environment = fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
        String::from_utf8_lossy(&environment).contains("glibc.malloc.hugetlb=1")
    };
    // Off, or begun again without the setting having come through.
    for settings in [("MAYFLY_INFERENCE__LARGE_PAGES", "false"), ("_MAYFLY_STARTED_AGAIN", "1")] {
        assert!(!told(&Server::start_with(&[settings])), "{settings:?}");
    }
    let server = Server::start_metered(&[]).await;
    match LargePages::of_system() {
        LargePages::Never => assert!(!told(&server)),
        LargePages::Asked => assert!(told(&server)),
        // Whether they can be had there for models alone, the system's age decides.
        LargePages::Unasked => {}
    }
    // A load does without, and is over.
    let call = server.call(Method::POST, "/d/default/meter/?rows=1").send().await.unwrap();
    assert_eq!((call.status().as_u16(), header(&call, "x-mayfly-cold").as_str()), (200, "model"));
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains("Name:\tmayfly\n"), "{status}");
    let enabled = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
    assert!(!told(&server) || enabled.is_none_or(|enabled| enabled.trim() == "1"), "{status}");
}

#[tokio::test]
async fn health_and_openapi() {
    let server = Server::start();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.http.get(format!("{}{path}", server.admin)).send().await.unwrap().status(), 200, "{path}");
    }
    let openapi: serde_json::Value =
        server.http.get(format!("{}/openapi.json", server.admin)).send().await.unwrap().json().await.unwrap();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(openapi["paths"].as_object().unwrap().len() > 10);
}
