//! What a caller notices of guests of another tenant that compute without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::Bench;
use crate::load::{Request, load};
use crate::measure::Samples;
use crate::row::Row;
use crate::server::{Server, deploy, deploy_to, post, upload, upload_to};
use crate::wire::Wire;

pub(crate) const NAME: &str = "victim_p99_beside_spinners";
const CONNECTIONS: usize = 2;
const SPINNERS: usize = 8;
/// How long each of them may compute; then it is called again.
const SPIN_CPU_MS_MAX: u64 = 300;

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let guest = |name: &str| {
        std::fs::read(bench.root.join(format!("tests/fixtures/guests/target/wasm32-wasip2/release/{name}.wasm")))
            .with_context(|| format!("the guest {name}"))
    };
    let server = Server::start(bench, &[])?;
    let mut admin = server.connect_admin()?;
    let spec = json!({ "handler": { "digest": upload(&mut admin, &guest("plain")?)? } });
    deploy(&mut admin, "victim", &spec)?;
    post(&mut admin, "/api/v1/tenants", &json!({ "name": "spinners" }))?;
    post(&mut admin, "/api/v1/projects", &json!({ "name": "spinners", "tenant": "spinners" }))?;
    let spec = json!({ "handler": { "digest": upload_to(&mut admin, "spinners", &guest("hostile")?)? },
        "limits": { "guest_cpu_ms_max": SPIN_CPU_MS_MAX, "deadline_ms_max": 600_000 } });
    deploy_to(&mut admin, "spinners", "spin", &spec)?;

    let victim = Request::get("/d/default/victim/", server.key());
    let (rounds, seconds) = if bench.quick { (3, 2) } else { (7, 4) };
    let length = Duration::from_secs(seconds);
    let (mut alone, mut beside) = (Samples::default(), Samples::default());
    let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut ended = 0;
    for round in 0..=rounds {
        let (alone_rate, seen_alone) = load(server.data(), &victim, CONNECTIONS, length)?;
        let spinners = Spinners::start(&server)?;
        let (beside_rate, seen_beside) = load(server.data(), &victim, CONNECTIONS, length)?;
        ended += spinners.stop()?;
        // The first round maps code and fills caches.
        if round > 0 {
            ratios.push(seen_beside.quantile_ms(0.99) / seen_alone.quantile_ms(0.99));
            rates[0].push(alone_rate);
            rates[1].push(beside_rate);
            alone.extend(seen_alone);
            beside.extend(seen_beside);
        }
    }
    ensure!(ended > 0, "no spinner came to its limit: they did not spin");
    let median = |figures: &mut Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let ratio = median(&mut ratios);
    Ok(vec![Row {
        name: NAME,
        ours: Some(beside.quantile_ms(0.99)),
        peer: Some(alone.quantile_ms(0.99)),
        unit: "ms",
        ratio: Some(ratio),
        target: "p99 at most 2 times alone",
        pass: ratio <= 2.0,
        note: format!(
            "median of the ratios of {rounds} rounds of {seconds} s ({:.2} to {:.2}), in turns; peer: the same alone; p50 {:.3} ms, alone {:.3} ms; {:.0} /s, alone {:.0} /s; {ended} spinning calls came to their limit of {SPIN_CPU_MS_MAX} ms",
            ratios[0],
            ratios[ratios.len() - 1],
            beside.median_ms(),
            alone.median_ms(),
            median(&mut rates[1]),
            median(&mut rates[0]),
        ),
    }])
}

/// Connections that call a guest that spins, each again when it has come to its limit.
struct Spinners {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Spinners {
    /// Returns once all of them spin.
    fn start(server: &Server) -> anyhow::Result<Self> {
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..SPINNERS)
            .map(|_| {
                let mut wire = Wire::connect(server.data(), server.key())?;
                let (stop, ended) = (Arc::clone(&stop), Arc::clone(&ended));
                Ok(std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = wire.call("GET", "/d/spinners/spin/spin", b"")?;
                        let text = String::from_utf8_lossy(&answer.body);
                        ensure!(answer.status == 502 && text.contains("guest_cpu_ms_max"), "{} {text}", answer.status);
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                }))
            })
            .collect::<anyhow::Result<_>>()?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(Self { stop, ended, threads })
    }

    /// Waits until the last of them has come to its limit. How many have.
    fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a spinner's thread panicked"))??;
        }
        Ok(self.ended.load(Ordering::Relaxed))
    }
}
