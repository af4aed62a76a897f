//! Which deployment answers: by host name as well as by path.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Server;

#[tokio::test]
async fn a_deployment_answers_at_its_own_host_name() {
    let server = Server::start_with(&[("MAYFLY_GATEWAY__DOMAIN", "mayfly.test")]);
    server.deploy_guest("echo", "hostile", json!({})).await;
    let at = async |host: &str, path: &str| {
        let response = server.call(Method::GET, path).header("host", host).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for host in ["echo--default.mayfly.test", "ECHO--default.Mayfly.Test", "echo--default.mayfly.test:8080"] {
        let (status, text) = at(host, "/echo?x=1").await;
        assert_eq!(status, 200, "{host}: {text}");
        let seen: Value = serde_json::from_str(&text).unwrap();
        assert!(seen.to_string().contains("/echo?x=1"), "the handler sees the whole path: {seen}");
    }
    // On such a host every path is the handler's own, also one that would be a route elsewhere.
    let (_, text) = at("echo--default.mayfly.test", "/d/default/echo/echo").await;
    assert!(text.contains("hostile knows no path /d/default/echo/echo"), "{text}");
    let (_, text) = at("echo--default.mayfly.test", "/v1/models").await;
    assert!(text.contains("hostile knows no path /v1/models"), "{text}");
    for host in ["nobody--default.mayfly.test", "echo--nobody.mayfly.test"] {
        let (status, text) = at(host, "/echo").await;
        assert_eq!(status, 404, "{host}: {text}");
    }
    for host in ["mayfly.test", "echo.mayfly.test", "echo--default.other.test"] {
        let (status, text) = at(host, "/d/default/echo/echo").await;
        assert_eq!(status, 200, "{host} names no deployment, so the path does: {text}");
    }
}

#[tokio::test]
async fn a_host_name_opens_nothing_without_a_key() {
    let server = Server::start_with(&[("MAYFLY_GATEWAY__DOMAIN", "mayfly.test")]);
    server.deploy_guest("echo", "hostile", json!({})).await;
    let at = |host: &str| server.http.get(format!("{}/echo", server.data)).header("host", host).send();
    let (known, unknown) =
        (at("echo--default.mayfly.test").await.unwrap(), at("no--default.mayfly.test").await.unwrap());
    assert_eq!(
        (known.status(), unknown.status()),
        (reqwest::StatusCode::UNAUTHORIZED, reqwest::StatusCode::UNAUTHORIZED)
    );
}

#[tokio::test]
async fn without_a_domain_hosts_say_nothing() {
    let server = Server::start();
    server.deploy_guest("echo", "hostile", json!({})).await;
    let response = server.call(Method::GET, "/echo").header("host", "echo--default.mayfly.test").send().await.unwrap();
    assert_eq!(response.status(), 404);
}
