//! A full disk: what cannot be kept is refused and said, what needs no room goes on, and room made heals it.

use std::io::Write as _;

use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, guest};

#[tokio::test]
async fn a_full_disk_refuses_uploads_and_heals() {
    let Some(mut server) = Server::start_on_small_disk(48 << 20) else {
        eprintln!("skipped: this system lets nobody mount a disk in a namespace of its own");
        return;
    };
    server.deploy_guest("kept", "hostile", json!({})).await;
    assert_eq!(server.call(Method::GET, "/d/default/kept/echo").send().await.unwrap().status(), 200);

    let filler = server.data_folder().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[7; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);

    let (status, answer) = server.upload(guest("plain")).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (507, Some("storage_unavailable")), "{answer}");
    assert!(!answer.to_string().contains(server.folder.path().to_str().unwrap()), "no host path: {answer}");
    // An answer leaves only with its row: either there was room for it, or nothing was delivered.
    for _ in 0..20 {
        let response = server.call(Method::GET, "/d/default/kept/echo").send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert!(status == 200 || (status >= 500 && text.contains("storage")), "{status} {text}");
    }
    assert!(server.is_alive());

    std::fs::remove_file(&filler).unwrap();
    server.deploy_guest("late", "plain", json!({})).await;
    for name in ["late/x", "kept/echo"] {
        let response = server.call(Method::GET, &format!("/d/default/{name}")).send().await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
    }
}
