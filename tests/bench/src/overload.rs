//! Three times as many calls as a model of 20 ms can serve: how much of its capacity is still served, how fast the rest
//! is refused, and whether whoever was let in is answered in time.
//!
//! Calls come evenly and are not kept back by answers that are late, as from many callers who know nothing of each other.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::Bench;
use crate::measure::Samples;
use crate::row::Row;
use crate::server::{Server, deploy, upload};
use crate::wire::Answer;

pub(crate) const GOODPUT: &str = "overload_goodput";
pub(crate) const REFUSAL: &str = "overload_refusal_p99";
pub(crate) const ADMITTED: &str = "overload_admitted_p99";

/// What one run of the model takes.
const MODEL_MS: f64 = 20.0;
const DEADLINE_MS: u32 = 500;
/// Calls that run at once: one in the model, one on its way to it.
const RUNNING: usize = 2;
const WAITING: usize = 8;
const PATH: &str = "/d/default/overload/nn";
/// The same handler and model with the default deadline and no line: what is there without pressure.
const CALM_PATH: &str = "/d/default/calm/nn";
/// Connections open at once, at most: far more than calls that are let in.
const CONNECTIONS_MAX: usize = 512;

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let server = Server::start(bench, &[])?;
    server.add_model("loop", &bench.root.join("tests/fixtures/models/loop.onnx"))?;
    let mut admin = server.connect_admin()?;
    let guest = bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/hostile.wasm");
    let digest = upload(&mut admin, &std::fs::read(guest)?)?;
    let spec = json!({
        "handler": { "digest": digest },
        "models": { "loop": "loop" },
        "limits": { "deadline_ms_max": DEADLINE_MS },
        "scale": { "concurrency_max": RUNNING, "queue_max": WAITING },
    });
    deploy(&mut admin, "overload", &spec)?;
    let calm = json!({ "handler": spec["handler"], "models": spec["models"] });
    deploy(&mut admin, "calm", &calm)?;
    let times = calibrate(&server)?;
    let body = plan(times);
    let seconds = if bench.quick { 5 } else { 20 };
    let capacity = capacity(&server, &body, Duration::from_secs(seconds))?;
    let crowd = crowd(&server, &body, 3.0 * capacity, Duration::from_secs(seconds))?;
    rows(capacity, &crowd)
}

fn plan(times: u64) -> Vec<u8> {
    let inputs = json!([
        { "name": "x", "ty": "f32", "dims": [256], "fill": 1 },
        { "name": "times", "ty": "i64", "dims": [], "data": [times] },
    ]);
    json!({ "model": "loop", "inputs": inputs, "steps": [{ "do": "compute", "read": false }] }).to_string().into_bytes()
}

/// How many turns of its loop make the model take 20 ms.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few thousand turns"
)]
fn calibrate(server: &Server) -> anyhow::Result<u64> {
    let mut wire = server.connect()?;
    let mut times = 1_000_u64;
    for _ in 0..4 {
        let body = plan(times);
        let mut samples = Samples::default();
        for _ in 0..10 {
            let answer = wire.call("POST", CALM_PATH, &body)?;
            ran(&answer)?;
            samples.push(Duration::from_secs_f64(timing(&answer, "inference")? / 1e3));
        }
        times = (times as f64 * MODEL_MS / samples.median_ms().max(0.01)).round().max(1.0) as u64;
    }
    Ok(times)
}

fn ran(answer: &Answer) -> anyhow::Result<()> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    ensure!(answer.status == 200 && body["steps"][0]["outputs"].is_array(), "{}: {body}", answer.status);
    Ok(())
}

/// One figure of `Server-Timing`, milliseconds.
fn timing(answer: &Answer, name: &str) -> anyhow::Result<f64> {
    figure(answer.header("server-timing").context("server-timing")?, name)
}

fn figure(timing: &str, name: &str) -> anyhow::Result<f64> {
    let mut parts = timing.split(", ").filter_map(|part| part.split_once(";dur="));
    let (_, value) = parts.find(|(part, _)| *part == name).with_context(|| format!("no {name} in {timing}"))?;
    Ok(value.parse()?)
}

/// Answers per second with as many callers as calls may run, each asking again once it was answered.
#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
fn capacity(server: &Server, body: &[u8], length: Duration) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let served = std::thread::scope(|scope| -> anyhow::Result<usize> {
        let callers: Vec<_> = (0..RUNNING)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<usize> {
                    let mut wire = server.connect()?;
                    let mut served = 0;
                    while begun.elapsed() < length {
                        ran(&wire.call("POST", CALM_PATH, body)?)?;
                        served += 1;
                    }
                    Ok(served)
                })
            })
            .collect();
        let mut all = 0;
        for caller in callers {
            all += caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        }
        Ok(all)
    })?;
    Ok(served as f64 / begun.elapsed().as_secs_f64())
}

/// What became of a crowd's calls.
#[derive(Debug, Default)]
struct Crowd {
    sent: usize,
    /// Answered with 200, from when each was due to its last byte.
    served: Samples,
    /// Of those the ones answered within the deadline.
    in_time: usize,
    /// Let in, and answered otherwise.
    failed: usize,
    /// Refused at once: what the server says it took.
    refused: Samples,
    length: Duration,
}

struct Caller {
    stream: TcpStream,
    seen: Vec<u8>,
    /// When the call that is on its way was due; none if none is.
    due: Option<Instant>,
}

/// Sends `rate` calls per second, evenly, for `length`, on as many connections as it takes.
fn crowd(server: &Server, body: &[u8], rate: f64, length: Duration) -> anyhow::Result<Crowd> {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        server.key(),
        body.len()
    );
    let request = [head.as_bytes(), body].concat();
    let gap = Duration::from_secs_f64(1.0 / rate);
    let (mut callers, mut crowd) = (Vec::<Caller>::new(), Crowd { length, ..Crowd::default() });
    let begun = Instant::now();
    let mut next = begun;
    loop {
        let now = Instant::now();
        while next <= now && next < begun + length {
            send(&mut callers, server.data(), &request, next)?;
            crowd.sent += 1;
            next += gap;
        }
        let over = next >= begun + length;
        if over && callers.iter().all(|caller| caller.due.is_none()) {
            return Ok(crowd);
        }
        ensure!(now < begun + length + Duration::from_secs(10), "calls are not answered");
        let wait = if over { Duration::from_millis(50) } else { next.saturating_duration_since(Instant::now()) };
        receive(&mut callers, wait, &mut crowd)?;
    }
}

fn send(callers: &mut Vec<Caller>, address: SocketAddr, request: &[u8], due: Instant) -> anyhow::Result<()> {
    let place = match callers.iter().position(|caller| caller.due.is_none()) {
        Some(place) => place,
        None => {
            ensure!(callers.len() < CONNECTIONS_MAX, "more than {CONNECTIONS_MAX} calls are unanswered");
            let stream = TcpStream::connect(address).context("connecting")?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            callers.push(Caller { stream, seen: Vec::new(), due: None });
            callers.len() - 1
        }
    };
    // A request is shorter than any socket's buffer.
    callers[place].stream.write_all(request)?;
    callers[place].due = Some(due);
    Ok(())
}

fn receive(callers: &mut Vec<Caller>, wait: Duration, crowd: &mut Crowd) -> anyhow::Result<()> {
    let mut polled: Vec<_> = callers.iter().map(|caller| PollFd::new(&caller.stream, PollFlags::IN)).collect();
    let limit = Timespec { tv_sec: 0, tv_nsec: wait.min(Duration::from_millis(100)).subsec_nanos().into() };
    poll(&mut polled, Some(&limit))?;
    let ready: Vec<usize> =
        polled.iter().enumerate().filter(|(_, one)| !one.revents().is_empty()).map(|(place, _)| place).collect();
    let mut closed = Vec::new();
    for place in ready {
        let caller = &mut callers[place];
        let open = caller.read()?;
        if let Some((status, timing)) = caller.answer()? {
            let due = caller.due.take().context("an answer that nobody asked for")?;
            caller.seen.clear();
            match status {
                200 => {
                    crowd.served.push(due.elapsed());
                    crowd.in_time += usize::from(due.elapsed() <= Duration::from_millis(DEADLINE_MS.into()));
                }
                429 => crowd.refused.push(Duration::from_secs_f64(figure(&timing, "queue")? / 1e3)),
                _ => crowd.failed += 1,
            }
        }
        if !open {
            ensure!(caller.due.is_none(), "the server closed a connection in mid-call");
            closed.push(place);
        }
    }
    for place in closed.into_iter().rev() {
        callers.swap_remove(place);
    }
    Ok(())
}

impl Caller {
    /// Takes what has come. False if the server has closed.
    fn read(&mut self) -> anyhow::Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => self.seen.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Status and `Server-Timing` of the answer, once it is whole.
    fn answer(&self) -> anyhow::Result<Option<(u16, String)>> {
        let Some(head) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&self.seen[..head])?;
        let status = text.split(' ').nth(1).context("the status line")?.parse()?;
        let header = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        let body = &self.seen[head + 4..];
        let whole = match header("content-length") {
            Some(length) => body.len() >= length.parse()?,
            None if header("transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n"),
            None => bail!("an answer without a length: {text}"),
        };
        Ok(whole.then(|| (status, header("server-timing").unwrap_or_default())))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
fn rows(capacity: f64, crowd: &Crowd) -> anyhow::Result<Vec<Row>> {
    ensure!(crowd.refused.len() > 100, "only {} calls were refused: this was no overload", crowd.refused.len());
    let goodput = crowd.in_time as f64 / crowd.length.as_secs_f64();
    let (refusal, admitted) = (crowd.refused.quantile_ms(0.99), crowd.served.quantile_ms(0.99));
    let let_in = crowd.served.len() + crowd.failed;
    // Whoever was let in and got no answer of the handler was not answered in time either.
    let in_time = crowd.in_time as f64 / let_in as f64;
    let note = format!(
        "{} calls in {} s, 3 times capacity: {} served ({} in time), {} refused, {} failed; {RUNNING} run, {WAITING} wait",
        crowd.sent,
        crowd.length.as_secs(),
        crowd.served.len(),
        crowd.in_time,
        crowd.refused.len(),
        crowd.failed,
    );
    Ok(vec![
        Row {
            name: GOODPUT,
            ours: Some(goodput),
            peer: Some(capacity),
            unit: "/s",
            ratio: Some(goodput / capacity),
            target: "at least 0.9 of capacity",
            pass: goodput / capacity >= 0.9,
            note,
        },
        Row {
            name: REFUSAL,
            ours: Some(refusal),
            peer: None,
            unit: "ms",
            ratio: None,
            target: "p99 < 1 ms in the server",
            pass: refusal < 1.0,
            note: format!("from head to refusal, as Server-Timing says; p50 {:.3} ms", crowd.refused.median_ms()),
        },
        Row {
            name: ADMITTED,
            ours: Some(admitted),
            peer: None,
            unit: "ms",
            ratio: Some(in_time),
            target: "p99 within the deadline",
            pass: in_time >= 0.99 && admitted <= f64::from(DEADLINE_MS),
            note: format!(
                "deadline {DEADLINE_MS} ms, from when a call was due; p50 {:.1} ms",
                crowd.served.median_ms()
            ),
        },
    ])
}
