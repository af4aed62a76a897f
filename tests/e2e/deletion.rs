//! Tenants and projects that go: only when they are empty, with their keys, and without what they used.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Server, guest, tiny_model};

async fn delete(server: &Server, path: &str) -> (StatusCode, Value) {
    let response = server.api(Method::DELETE, path).send().await.unwrap();
    let status = response.status();
    (status, response.json().await.unwrap_or(Value::Null))
}

/// A server where tenant `acme` has project `shop` with deployment `meter`; a row costs 1. Keys of the whole tenant
/// and of the project.
async fn acme() -> (Server, String, String) {
    let server = Server::start();
    server.price("rows", "1");
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.cli_json(&["tenants", "create", "acme"]);
    server.cli_json(&["projects", "create", "shop", "--tenant", "acme"]);
    let uploaded = server.api(Method::PUT, "/projects/shop/artifacts").body(guest("meter")).send().await.unwrap();
    let uploaded: Value = uploaded.json().await.unwrap();
    let spec = json!({ "handler": { "digest": uploaded["digest"] }, "models": { "rows": "rows" } });
    let deployed = server.api(Method::POST, "/projects/shop/deployments/meter").json(&spec).send().await.unwrap();
    assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
    let (_, of_project) = server.call_key(json!({ "project": "shop" })).await;
    let whole = server.cli_json(&["keys", "create", "--project", "shop", "--scope", "deploy", "--whole-tenant"]);
    (server, of_project, whole["secret"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_call_that_is_open_while_its_tenant_is_deleted_ends_and_is_billed_to_it() {
    let (server, key, whole) = acme().await;
    let tenant = server.get("/tenants").await["data"].as_array().unwrap().iter().find(|t| t["name"] == "acme").unwrap()
        ["id"]
        .clone();
    let path = "/d/shop/meter/?frames=60&rows=2&ms=50";
    let mut stream = server.call_with(&key, Method::GET, path).send().await.unwrap();
    let id = stream.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(stream.chunk().await.unwrap().is_some());

    let (status, problem) = delete(&server, "/tenants/acme").await;
    let detail = problem["detail"].as_str().unwrap();
    assert_eq!((status.as_u16(), &problem["code"], &problem["open_calls"]), (409, &json!("conflict"), &json!(1)));
    assert!(detail.contains("`shop`") && detail.contains("1 of its calls are open"), "{detail}");
    let (status, problem) = delete(&server, "/projects/shop").await;
    assert_eq!((status.as_u16(), &problem["open_calls"]), (409, &json!(1)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("`meter`"), "{problem}");

    assert_eq!(delete(&server, "/projects/shop/deployments/meter").await.0, 204);
    server.cli_json(&["projects", "delete", "shop"]);
    assert_eq!(server.call_with(&key, Method::GET, path).send().await.unwrap().status(), 401, "its keys are dead");
    server.cli_json(&["tenants", "delete", "acme"]);
    let projects = format!("{}/api/v1/projects", server.admin);
    assert_eq!(server.http.get(projects).bearer_auth(&whole).send().await.unwrap().status(), 401);
    assert_eq!(server.get(&format!("/requests/{id}")).await["ended"], false, "it outlived its tenant");

    while stream.chunk().await.unwrap().is_some() {}
    let record = server.settled(&id).await;
    assert_eq!(
        (&record["outcome"], &record["usage"]["rows"], &record["cost"], &record["tenant"]),
        (&json!("completed"), &json!(120), &json!("120"), &tenant),
        "{record}"
    );
    let usage = server.get("/usage?group_by=tenant,project").await;
    let names = &usage["data"][0]["names"];
    assert_eq!((&names["tenant"], &names["project"]), (&json!("acme"), &json!("shop")), "{usage}");
    let by_id = server.get(&format!("/usage?tenant={}", tenant.as_str().unwrap())).await;
    assert_eq!(by_id["total"]["cost"], "120", "{by_id}");
    assert_eq!(server.cli_json(&["ledger", "verify"])["ok"], true);
}

#[tokio::test]
async fn names_are_free_again_and_their_next_owner_starts_with_nothing() {
    let (server, key, _) = acme().await;
    let response = server.call_with(&key, Method::POST, "/d/shop/meter/?rows=3").send().await.unwrap();
    assert_eq!(response.status(), 200);
    delete(&server, "/projects/shop/deployments/meter").await;
    assert_eq!(delete(&server, "/projects/shop").await.0, 204);
    assert_eq!(delete(&server, "/projects/shop").await.0, 404);
    assert_eq!(delete(&server, "/tenants/acme").await.0, 204);
    assert_eq!(delete(&server, "/tenants/acme").await.0, 404);
    for path in ["/tenants/acme/limits", "/projects/shop/limits", "/projects/shop/deployments", "/usage?project=shop"] {
        let status = server.api(Method::GET, path).send().await.unwrap().status();
        assert_eq!(status, 404, "{path}");
    }
    let listed = server.get("/projects").await.to_string() + &server.get("/tenants").await.to_string();
    assert!(!listed.contains("shop") && !listed.contains("acme"), "{listed}");

    server.cli_json(&["tenants", "create", "acme"]);
    server.cli_json(&["projects", "create", "shop", "--tenant", "acme"]);
    for path in ["/usage?tenant=acme", "/usage?project=shop"] {
        assert_eq!(server.get(path).await["total"]["calls"], 0, "{path}");
    }
    assert_eq!(server.get("/usage").await["total"]["usage"]["rows"], 3, "what was used was used");
    let limits = server.get("/tenants/acme/limits").await;
    assert_eq!(limits, json!({}));
}

#[tokio::test]
async fn only_the_operator_deletes_and_default_stays_away() {
    let (mut server, _, whole) = acme().await;
    for path in ["/tenants/acme", "/projects/shop"] {
        let url = format!("{}/api/v1{path}", server.admin);
        assert_eq!(server.http.delete(url).bearer_auth(&whole).send().await.unwrap().status(), 403, "{path}");
    }
    assert_eq!(delete(&server, "/projects/default").await.0, 204);
    assert_eq!(delete(&server, "/tenants/default").await.0, 204);
    server.restart();
    let tenants = server.get("/tenants").await;
    let names: Vec<_> = tenants["data"].as_array().unwrap().iter().map(|tenant| tenant["name"].clone()).collect();
    assert_eq!(names, ["acme"]);
}
