use std::collections::BTreeSet;

use super::*;

/// Every route, as the contract of the control plane has it.
const ROUTES: &[(&str, &str)] = &[
    ("get", "/api/v1/tenants"),
    ("post", "/api/v1/tenants"),
    ("delete", "/api/v1/tenants/{tenant}"),
    ("get", "/api/v1/projects"),
    ("post", "/api/v1/projects"),
    ("delete", "/api/v1/projects/{project}"),
    ("get", "/api/v1/keys"),
    ("post", "/api/v1/keys"),
    ("delete", "/api/v1/keys/{id}"),
    ("get", "/api/v1/keys/{id}/limits"),
    ("put", "/api/v1/keys/{id}/limits"),
    ("get", "/api/v1/tenants/{tenant}/limits"),
    ("put", "/api/v1/tenants/{tenant}/limits"),
    ("get", "/api/v1/projects/{project}/limits"),
    ("put", "/api/v1/projects/{project}/limits"),
    ("get", "/api/v1/projects/{project}/deployments/{deployment}/limits"),
    ("put", "/api/v1/projects/{project}/deployments/{deployment}/limits"),
    ("get", "/api/v1/projects/{project}/deployments/{deployment}/keys"),
    ("post", "/api/v1/projects/{project}/deployments/{deployment}/keys/{slot}"),
    ("get", "/api/v1/audit"),
    ("put", "/api/v1/projects/{project}/artifacts"),
    ("get", "/api/v1/models"),
    ("get", "/api/v1/models/{name}"),
    ("post", "/api/v1/models/{name}"),
    ("delete", "/api/v1/models/{name}"),
    ("get", "/api/v1/projects/{project}/models"),
    ("get", "/api/v1/projects/{project}/models/{name}"),
    ("post", "/api/v1/projects/{project}/models/{name}"),
    ("delete", "/api/v1/projects/{project}/models/{name}"),
    ("post", "/api/v1/projects/{project}/models/{name}/approve"),
    ("put", "/api/v1/models/{name}/pins/{device}"),
    ("delete", "/api/v1/models/{name}/pins/{device}"),
    ("put", "/api/v1/projects/{project}/models/{name}/pins/{device}"),
    ("delete", "/api/v1/projects/{project}/models/{name}/pins/{device}"),
    ("get", "/api/v1/projects/{project}/deployments"),
    ("get", "/api/v1/projects/{project}/deployments/{deployment}"),
    ("post", "/api/v1/projects/{project}/deployments/{deployment}"),
    ("delete", "/api/v1/projects/{project}/deployments/{deployment}"),
    ("get", "/api/v1/projects/{project}/deployments/{deployment}/revisions"),
    ("post", "/api/v1/projects/{project}/deployments/{deployment}/rollback"),
    ("get", "/api/v1/projects/{project}/deployments/{deployment}/logs"),
    ("get", "/api/v1/requests/{id}"),
    ("get", "/api/v1/usage"),
    ("get", "/api/v1/prices"),
    ("post", "/api/v1/prices"),
    ("post", "/api/v1/prices/check"),
    ("post", "/api/v1/estimate"),
    ("get", "/api/v1/tenants/{tenant}/credit"),
    ("post", "/api/v1/tenants/{tenant}/credit"),
    ("get", "/api/v1/projects/{project}/credit"),
    ("post", "/api/v1/projects/{project}/credit"),
    ("get", "/api/v1/projects/{project}/deployments/{deployment}/credit"),
    ("post", "/api/v1/projects/{project}/deployments/{deployment}/credit"),
    ("get", "/api/v1/keys/{id}/credit"),
    ("post", "/api/v1/keys/{id}/credit"),
    ("post", "/api/v1/ledger/verify"),
    ("get", "/api/v1/activity"),
    ("get", "/api/v1/node"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
];

fn document() -> serde_json::Value {
    serde_json::to_value(openapi()).unwrap()
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            found.insert((method.clone(), path.clone()));
        }
    }
    let expect = ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(found, expect);
}

#[test]
fn everything_below_api_needs_a_key_and_says_so() {
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let secured = operation["security"][0]["key"].is_array();
            assert_eq!(secured, path.starts_with("/api/"), "{method} {path}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_no_operation_shares_its_id() {
    let document = document();
    let text = document.to_string();
    let mut ids = BTreeSet::new();
    for operation in document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values())
    {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} is there twice");
    }
    assert_eq!(ids.len(), ROUTES.len());
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    assert!(document["components"]["schemas"]["Page_Tenant"].is_object());
}

#[tokio::test]
async fn failures_leave_as_problems_and_answers_as_they_are() {
    let id = RequestId::new();
    let response = finish(Failure::not_found("project").into_response(), id);
    assert_eq!(response.status(), 404);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: mayfly_api::Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!((problem.code.as_str(), problem.request_id), ("not_found", Some(id.to_string())));
    let response = finish("text".into_response(), id);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "text");
}
