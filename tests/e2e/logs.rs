//! `mayfly logs --follow`: what the handler writes shows as it is written, and both ends can leave.

use std::io::{BufRead, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::harness::{BINARY, Server};

/// `mayfly logs NAME -f` and the lines it prints. Dropping it kills the process.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(server: &Server, args: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["logs", "echo", "-f"])
            .args(args)
            .env("MAYFLY_URL", &server.admin)
            .env("MAYFLY_KEY", &server.key)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).expect("a line comes while it is followed")
    }

    /// Its exit status, once it has ended by itself, and its complaints.
    fn ended(&mut self) -> (std::process::ExitStatus, String) {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut text = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                return (status, text);
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "it follows for ever");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the guest write a line.
async fn print(server: &Server) {
    let response = server.call(Method::GET, "/d/default/echo/print?bytes=10&to=stderr").send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn lines_come_as_they_are_written_until_the_server_stops() {
    let mut server = Server::start_with(&[("MAYFLY_GATEWAY__DRAIN_MS_MAX", "20000")]);
    server.deploy_guest("echo", "hostile", json!({})).await;
    print(&server).await;
    let mut follower = Follower::start(&server, &[]);
    let first = follower.next();
    assert!(first.contains("stderr"), "what was there comes first: {first}");
    assert!(follower.lines.recv_timeout(Duration::from_millis(300)).is_err(), "and then it waits");
    for _ in 0..3 {
        print(&server).await;
        assert!(follower.next().contains("stderr"));
    }
    assert!(follower.lines.try_recv().is_err(), "each line once");
    let begin = Instant::now();
    let status = tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    assert!(
        status.success() && begin.elapsed() < Duration::from_secs(15),
        "a reader does not hold up the stop: {status}"
    );
    let (status, complaints) = follower.ended();
    assert!(status.success(), "{status}: {complaints}");
}

#[tokio::test]
async fn a_reader_that_leaves_makes_room_for_the_next() {
    let server = Server::start_with(&[("MAYFLY_GATEWAY__LOG_FOLLOWERS_MAX", "1")]);
    server.deploy_guest("echo", "hostile", json!({})).await;
    print(&server).await;
    let follower = Follower::start(&server, &["--json"]);
    let line: serde_json::Value = serde_json::from_str(&follower.next()).unwrap();
    assert_eq!(line["stream"], "stderr");
    let (status, complaints) = Follower::start(&server, &[]).ended();
    assert!(!status.success() && complaints.contains("log_followers_max = 1"), "{complaints}");
    drop(follower);
    server
        .eventually("the place is free again", async || {
            // Noticed when there is something to send.
            print(&server).await;
            Follower::start(&server, &[]).lines.recv_timeout(Duration::from_millis(500)).is_ok()
        })
        .await;
}
