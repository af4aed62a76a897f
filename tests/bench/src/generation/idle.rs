//! An engine that nobody asks: no CPU.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::scene::{Scene, large_model, server};
use crate::Bench;
use crate::row::Row;
use crate::server::Server;

pub(crate) const NAME: &str = "generation_idle_cpu";

/// After its last step an engine gives memory back once; then it is at rest.
const REST: Duration = Duration::from_secs(15);
const WATCHED: Duration = Duration::from_secs(10);

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let package = large_model(bench)?;
    let server = server(bench, &[])?;
    thread::sleep(Duration::from_secs(2));
    let before = threads(&server)?;
    let bare: f64 = watch(&server, WATCHED)?.into_iter().map(|(_, ms)| ms).sum();
    let scene = Scene::of(server, &package)?;
    scene.ask(64, 64)?;
    thread::sleep(REST);
    let (mut all, mut engine) = (0.0, 0.0);
    let mut who = Vec::new();
    for (thread, ms) in watch(&scene.server, WATCHED)? {
        all += ms;
        if before.contains(&thread) {
            continue;
        }
        let name = fs::read_to_string(format!("/proc/{}/task/{thread}/comm", scene.server.process()))?;
        who.push(format!("{} {ms:.2}", name.trim()));
        // Threads of the async runtime come and go with calls, whatever is loaded.
        if !name.starts_with("tokio") {
            engine += ms;
        }
    }
    let loaded = threads(&scene.server)?.difference(&before).count();
    ensure!(loaded > 0, "no thread was made for the engine");
    Ok(vec![Row {
        name: NAME,
        ours: Some(engine),
        peer: None,
        unit: "ms",
        ratio: None,
        target: "under 1 ms in 10 s",
        pass: engine < 1.0,
        note: format!(
            "CPU in {WATCHED:?} of the {loaded} threads that came with a loaded engine, the async runtime's left out ({}); the whole server {all:.1}, {bare:.1} before any model was loaded",
            who.join(", ")
        ),
    }])
}

fn threads(server: &Server) -> anyhow::Result<HashSet<u32>> {
    let folder = format!("/proc/{}/task", server.process());
    let number =
        |entry: std::io::Result<fs::DirEntry>| entry?.file_name().to_string_lossy().parse().context("a thread");
    fs::read_dir(folder)?.map(number).collect()
}

/// Milliseconds of CPU of each thread that is there at the end, within `time`.
fn watch(server: &Server, time: Duration) -> anyhow::Result<Vec<(u32, f64)>> {
    let on_cpu = |thread: u32| -> anyhow::Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/task/{thread}/schedstat", server.process()))?;
        Ok(text.split_whitespace().next().context("schedstat")?.parse::<f64>()? / 1e6)
    };
    // A thread that ends meanwhile is nobody's.
    let now = || -> anyhow::Result<Vec<(u32, f64)>> {
        Ok(threads(server)?.into_iter().filter_map(|thread| Some((thread, on_cpu(thread).ok()?))).collect())
    };
    let begin: HashMap<u32, f64> = now()?.into_iter().collect();
    thread::sleep(time);
    Ok(now()?.into_iter().map(|(thread, ms)| (thread, ms - begin.get(&thread).unwrap_or(&0.0))).collect())
}
