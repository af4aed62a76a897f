//! The command line as a new user meets it.

use std::process::Command;

use crate::harness::{BINARY, Server, root, tiny_model};

#[test]
fn new_builds_deploys_and_answers() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str], at: &std::path::Path| {
        let output = Command::new(BINARY)
            .args(args)
            .current_dir(at)
            .env("MAYFLY_URL", &server.admin)
            .env("MAYFLY_KEY", &server.key)
            // Shared with the other guests, so that the SDK's dependencies are not built again.
            .env("CARGO_TARGET_DIR", root().join("target/new-handler"))
            .output()
            .unwrap();
        assert!(output.status.success(), "mayfly {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&["new", "greeter"], folder.path());
    let made = folder.path().join("greeter");
    let again = Command::new(BINARY).args(["new", "greeter"]).current_dir(folder.path()).output().unwrap();
    assert!(!again.status.success(), "an existing folder is left alone");
    // The manifest says where cargo puts the file by default.
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--target", "wasm32-wasip2", "--target-dir"])
        .arg(made.join("target"))
        .current_dir(&made)
        .status()
        .unwrap();
    assert!(status.success(), "the scaffold builds");
    let printed = run(&["deploy", "--no-build"], &made);
    assert!(printed.contains("/d/default/greeter") && printed.contains("curl"), "{printed}");
    assert!(run(&["invoke", "greeter"], &made).contains("hello, world"));
    assert!(run(&["invoke", "greeter", "-d", r#"{"name": "Ada"}"#], &made).contains("hello, Ada"));
    assert!(run(&["logs", "greeter"], &made).contains("greeting Ada"));
    assert!(run(&["list"], &made).contains("greeter"));
    assert!(run(&["show", "greeter"], &made).contains("deadline_ms_max"));
    run(&["delete", "greeter"], &made);
    let gone = server.cli(&["show", "greeter"]);
    assert!(!gone.status.success());
}

#[test]
fn one_line_from_a_model_to_an_endpoint() {
    let server = Server::start();
    let model = tiny_model("embedder");
    let deployed = server.cli_json(&["deploy", "builtin:embeddings", "--model", model.to_str().unwrap()]);
    assert_eq!(deployed["deployment"]["name"], "embeddings");
    let answer =
        server.cli_json(&["invoke", "embeddings", "/v1/embeddings", "-d", r#"{"model":"embeddings","input":"hello"}"#]);
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(answer["body"]["data"][0]["embedding"].as_array().map(Vec::len), Some(4), "{answer}");
}

#[test]
fn every_listing_has_json() {
    let server = Server::start();
    for args in
        [&["list"][..], &["models", "list"], &["keys", "list"], &["tenants", "list"], &["projects", "list"], &["usage"]]
    {
        let value = server.cli_json(args);
        assert!(value["data"].is_array(), "{args:?}: {value}");
    }
    let checks = server.cli_json(&["doctor"]);
    let pool = checks.as_array().and_then(|checks| checks.iter().find(|check| check["name"] == "instances"));
    let found = pool.and_then(|pool| pool["found"].as_str()).unwrap_or_default();
    assert!(found.contains("instances at once, "), "how many, and why not more: {checks}");
}

#[test]
fn mistakes_are_said_plainly() {
    let server = Server::start();
    for (args, says) in [
        (&["deploy", "nowhere"][..], "does not exist"),
        (&["deploy", "builtin:nobody"], "nobody"),
        (&["deploy", "builtin:embeddings", "--limit", "deadline=1"], "deadline_ms_max"),
        (&["models", "add", "m", "nowhere"], "does not exist"),
        (&["show", "nobody"], "no such"),
    ] {
        let output = server.cli(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(says), "{args:?}: {text}");
    }
    let output = Command::new(BINARY).args(["list"]).env_remove("MAYFLY_KEY").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("MAYFLY_KEY"));
    let wrong = Command::new(BINARY)
        .args(["list"])
        .env("MAYFLY_URL", &server.admin)
        .env("MAYFLY_KEY", "mf_x")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("invalid_api_key") || !wrong.status.success());
}

#[test]
fn print_config_is_a_config() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY).args(["serve", "--print-config"]).output().unwrap();
    let file = folder.path().join("mayfly-server.toml");
    std::fs::write(&file, &output.stdout).unwrap();
    let checked = Command::new(BINARY).arg("doctor").arg("--config").arg(&file).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
