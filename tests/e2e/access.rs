//! Keys, scopes and tenants: who may do what, and that one tenant never learns of another.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Server;

/// A tenant with a project of its own name and two keys: one to call, one to deploy.
struct Other {
    call: String,
    deploy: String,
}

async fn other_tenant(server: &Server, name: &str) -> Other {
    server.cli_json(&["tenants", "create", name]);
    server.cli_json(&["projects", "create", name, "--tenant", name]);
    let key = |scope: &str| {
        let made = server.cli_json(&["keys", "create", "--project", name, "--scope", scope]);
        made["secret"].as_str().unwrap().to_owned()
    };
    Other { call: key("call"), deploy: key("deploy") }
}

async fn call_with(server: &Server, key: Option<&str>, path: &str) -> (StatusCode, Value) {
    let mut request = server.http.get(format!("{}{path}", server.data));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn unknown_and_forbidden_deployments_answer_alike() {
    let server = Server::start();
    server.deploy_guest("mine", "hostile", json!({})).await;
    let other = other_tenant(&server, "other").await;
    let forbidden = call_with(&server, Some(&other.call), "/d/default/mine/echo").await;
    let unknown = call_with(&server, Some(&other.call), "/d/default/none/echo").await;
    let no_project = call_with(&server, Some(&other.call), "/d/nobody/mine/echo").await;
    assert_eq!(forbidden.0, 404);
    let shape =
        |(status, body): &(StatusCode, Value)| (*status, body["error"]["code"].clone(), body["error"]["type"].clone());
    assert_eq!(shape(&forbidden), shape(&unknown));
    assert_eq!(shape(&forbidden), shape(&no_project));
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_401_before_anything_else() {
    let server = Server::start();
    server.deploy_guest("mine", "hostile", json!({})).await;
    for path in ["/d/default/mine/echo", "/d/default/none/echo", "/v1/models"] {
        for key in [None, Some("mf_wrong"), Some("")] {
            let (status, body) = call_with(&server, key, path).await;
            assert_eq!(
                (status.as_u16(), body["error"]["code"].as_str()),
                (401, Some("invalid_api_key")),
                "{path} {key:?}"
            );
        }
    }
    for header in ["api-key", "x-api-key"] {
        let url = format!("{}/d/default/mine/echo", server.data);
        let response = server.http.get(url).header(header, &server.key).send().await.unwrap();
        assert_eq!(response.status(), 200, "{header} works too");
    }
}

#[tokio::test]
async fn scopes_are_kept_and_a_revoked_key_is_dead_at_once() {
    let server = Server::start();
    server.deploy_guest("mine", "hostile", json!({})).await;
    let made = server.cli_json(&["keys", "create", "--scope", "call", "--label", "caller"]);
    let (secret, id) = (made["secret"].as_str().unwrap().to_owned(), made["key"]["id"].as_str().unwrap().to_owned());
    assert_eq!(call_with(&server, Some(&secret), "/d/default/mine/echo").await.0, 200);

    let admin = format!("{}/api/v1/projects/default/deployments", server.admin);
    let refused = server.http.get(&admin).bearer_auth(&secret).send().await.unwrap();
    assert_eq!(refused.status(), 403, "a call key is no deploy key");
    let deploy = server.cli_json(&["keys", "create", "--scope", "deploy"]);
    let deploy = deploy["secret"].as_str().unwrap();
    assert_eq!(server.http.get(&admin).bearer_auth(deploy).send().await.unwrap().status(), 200);
    let tenants = format!("{}/api/v1/tenants", server.admin);
    assert_eq!(server.http.get(&tenants).bearer_auth(deploy).send().await.unwrap().status(), 403);

    server.cli_json(&["keys", "revoke", &id]);
    assert_eq!(call_with(&server, Some(&secret), "/d/default/mine/echo").await.0, 401);
    let listed = server.cli_json(&["keys", "list"]).to_string();
    assert!(!listed.contains(&secret), "secrets are never listed");
}

#[tokio::test]
async fn a_deploy_key_sees_only_its_own() {
    let server = Server::start();
    server.deploy_guest("mine", "hostile", json!({})).await;
    let call = server.call(Method::GET, "/d/default/mine/echo").send().await.unwrap();
    let id = call.headers()["x-request-id"].to_str().unwrap().to_owned();
    let other = other_tenant(&server, "other").await;
    for path in [
        "/projects/default/deployments",
        "/projects/default/deployments/mine",
        "/projects/default/deployments/mine/logs",
        "/projects/default/deployments/mine/revisions",
        "/projects/default/models",
        &format!("/requests/{id}"),
    ] {
        let url = format!("{}/api/v1{path}", server.admin);
        let status = server.http.get(url).bearer_auth(&other.deploy).send().await.unwrap().status();
        assert_eq!(status, 404, "{path}");
    }
    let url = format!("{}/api/v1/projects/default/deployments/mine", server.admin);
    assert_eq!(server.http.delete(url).bearer_auth(&other.deploy).send().await.unwrap().status(), 404);
    let usage = server.http.get(format!("{}/api/v1/usage?group_by=deployment", server.admin));
    let usage = usage.bearer_auth(&other.deploy).send().await.unwrap().text().await.unwrap();
    assert!(!usage.contains("mine"), "{usage}");
    // Its own calls are the caller's; another key's are not.
    let own =
        server.http.get(format!("{}/v1/requests/{id}", server.data)).bearer_auth(&server.key).send().await.unwrap();
    assert_eq!(own.status(), 200);
    let theirs =
        server.http.get(format!("{}/v1/requests/{id}", server.data)).bearer_auth(&other.call).send().await.unwrap();
    assert_eq!(theirs.status(), 404);
}

#[tokio::test]
async fn errors_wear_the_right_envelope() {
    let server = Server::start();
    let (_, data) = call_with(&server, Some(&server.key), "/d/default/none/").await;
    assert!(data["error"]["message"].is_string() && data["error"]["type"].is_string(), "{data}");
    let response = server.api(Method::GET, "/projects/default/deployments/none").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = response.json().await.unwrap();
    assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(404), Some("not_found")), "{problem}");
}
