//! The trail of changes: each kind leaves its row, with who and in which request, and without a secret.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, guest, header, tiny_model};

/// Makes a change over the API; its newest row must say so.
async fn check(server: &Server, method: Method, path: &str, body: Option<Value>, action: &str, target: &str) -> Value {
    let mut request = server.api(method, path);
    if let Some(body) = &body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    let (status, id) = (response.status(), header(&response, "x-request-id"));
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{path}: {status} {text}");
    let rows = server.get("/audit?limit=1").await;
    let row = &rows["data"][0];
    assert_eq!((row["action"].as_str(), row["request"].as_str()), (Some(action), Some(id.as_str())), "{path}: {row}");
    assert!(row["target"].as_str().unwrap().contains(target), "{target}: {row}");
    assert!(row["actor"].is_string() && row["actor"] != "system", "{row}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

#[tokio::test]
async fn every_kind_of_change_leaves_a_row() {
    let server = Server::start();
    let (put, post, delete) = (Method::PUT, Method::POST, Method::DELETE);
    check(&server, post.clone(), "/tenants", Some(json!({ "name": "acme" })), "tenant.create", "acme").await;
    let project = json!({ "name": "shop", "tenant": "acme" });
    check(&server, post.clone(), "/projects", Some(project), "project.create", "shop").await;

    let uploaded = server.api(Method::PUT, "/projects/shop/artifacts").body(guest("plain")).send().await.unwrap();
    let digest = uploaded.json::<Value>().await.unwrap()["digest"].clone();
    assert_eq!(server.get("/audit?limit=1").await["data"][0]["action"], "artifact.upload");
    server.add_model("rows", &tiny_model("rows.onnx"));
    assert_eq!(server.get("/audit?limit=1").await["data"][0]["action"], "model.import");

    let at = "/projects/shop/deployments/app";
    let spec = |config: Value| Some(json!({ "handler": { "digest": digest }, "models": {}, "config": config }));
    check(&server, post.clone(), at, spec(json!({})), "deployment.deploy", "shop/app").await;
    check(&server, post.clone(), at, spec(json!({ "password": "hunter2" })), "deployment.deploy", "shop/app").await;
    let back = json!({ "revision": 1 });
    check(&server, post.clone(), &format!("{at}/rollback"), Some(back), "deployment.rollback", "shop/app").await;

    let key = json!({ "scopes": ["call"], "project": "shop", "label": "app" });
    let made = check(&server, post.clone(), "/keys", Some(key), "key.create", "").await;
    let key = made["key"]["id"].as_str().unwrap().to_owned();
    let slot = check(&server, post.clone(), &format!("{at}/keys/primary"), None, "key.rotate", "").await;
    for (level, name) in [
        ("/tenants/acme", "acme"),
        ("/projects/shop", "shop"),
        (at, "shop/app"),
        (&format!("/keys/{key}"), key.as_str()),
    ] {
        let limits = Some(json!({ "concurrency": 7 }));
        check(&server, put.clone(), &format!("{level}/limits"), limits, "limits.set", name).await;
        let credit = Some(json!({ "amount": "5", "note": "May" }));
        check(&server, post.clone(), &format!("{level}/credit"), credit, "credit.grant", "").await;
    }
    let price = json!({ "meter": "rows", "amount": "1", "per": 1 });
    check(&server, post.clone(), "/prices", Some(price), "price.add", "").await;

    check(&server, delete.clone(), &format!("/keys/{key}"), None, "key.revoke", &key).await;
    check(&server, delete.clone(), "/models/rows", None, "model.remove", "rows").await;
    check(&server, delete.clone(), at, None, "deployment.delete", "shop/app").await;
    check(&server, delete.clone(), "/projects/shop", None, "project.delete", "shop").await;
    check(&server, delete, "/tenants/acme", None, "tenant.delete", "acme").await;

    let before = server.get("/audit?limit=500").await;
    let refused = server.api(post.clone(), "/tenants").json(&json!({ "name": "default" })).send().await.unwrap();
    assert_eq!(refused.status(), 409);
    assert_eq!(server.get("/audit?limit=500").await, before, "what was refused changed nothing");
    let text = before.to_string();
    for secret in ["hunter2", made["secret"].as_str().unwrap(), slot["secret"].as_str().unwrap(), &server.key] {
        assert!(!text.contains(secret), "{secret} is in the trail");
    }
    let printed = server.cli_json(&["audit", "-n", "1"]);
    assert_eq!(printed["data"][0]["action"], "tenant.delete", "{printed}");
}

#[tokio::test]
async fn a_tenant_reads_its_own_trail_only_and_a_restart_keeps_it() {
    let mut server = Server::start();
    for name in ["acme", "rival"] {
        server.cli_json(&["tenants", "create", name]);
        server.cli_json(&["projects", "create", name, "--tenant", name]);
    }
    let made = server.cli_json(&["keys", "create", "--project", "acme", "--scope", "deploy", "--whole-tenant"]);
    let (secret, id) = (made["secret"].as_str().unwrap().to_owned(), made["key"]["id"].as_str().unwrap().to_owned());
    let bearer =
        |server: &Server, path: &str| server.http.get(format!("{}/api/v1{path}", server.admin)).bearer_auth(&secret);
    let seen: Value = bearer(&server, "/audit").send().await.unwrap().json().await.unwrap();
    assert!(seen["data"].as_array().unwrap().len() >= 3 && !seen.to_string().contains("rival"), "{seen}");
    let call = json!({ "scopes": ["call"] });
    let keys = format!("{}/api/v1/keys", server.admin);
    assert_eq!(server.http.post(keys).bearer_auth(&secret).json(&call).send().await.unwrap().status(), 201);
    server.kill();
    server.restart();
    let by_it = server.get(&format!("/audit?actor={id}")).await;
    assert_eq!(by_it["data"].as_array().unwrap().len(), 1, "{by_it}");
    assert_eq!((&by_it["data"][0]["action"], &by_it["data"][0]["actor"]), (&json!("key.create"), &json!(id)));
}
