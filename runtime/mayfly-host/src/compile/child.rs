//! The compiling child: limits itself, checks, compiles, writes, answers with one line of JSON.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ComponentInfo, Reply};
use crate::{code, linker, settings, worlds};

/// What the server passed.
#[derive(Debug, Default)]
struct Order {
    wasm: PathBuf,
    out: Option<PathBuf>,
    engine: String,
    component_bytes_max: u64,
    bytes_max: u64,
    seconds_max: u64,
}

/// The child's side of [`crate::Host::compile`]: `args` are what the parent passed after `__compile`.
/// Limits itself, checks, compiles, writes, prints one line of JSON. Returns the exit code.
pub fn compile_in_child(args: &[String]) -> i32 {
    let reply = match order(args).and_then(|order| limit(&order).map(|()| order)) {
        Ok(order) => work(&order).unwrap_or_else(|reply| reply),
        Err(detail) => Reply::Failed(detail),
    };
    let line = match serde_json::to_string(&reply) {
        Ok(line) => line,
        Err(_) => return 1,
    };
    let mut stdout = std::io::stdout();
    let written =
        stdout.write_all(line.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    i32::from(written.is_err() || !matches!(reply, Reply::Done(_)))
}

fn order(args: &[String]) -> Result<Order, String> {
    let mut order = Order::default();
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("`{name}` needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("`{name} {value}` is not a number"));
        match name.as_str() {
            "--in" => order.wasm = value.into(),
            "--out" => order.out = Some(value.into()),
            "--engine" => order.engine.clone_from(value),
            "--component-bytes-max" => order.component_bytes_max = number()?,
            "--bytes-max" => order.bytes_max = number()?,
            "--seconds-max" => order.seconds_max = number()?,
            _ => return Err(format!("`{name}` is not known")),
        }
    }
    if order.wasm.as_os_str().is_empty() || order.bytes_max == 0 || order.seconds_max == 0 {
        return Err("`--in`, `--bytes-max` and `--seconds-max` are needed".to_owned());
    }
    Ok(order)
}

/// From here on the kernel holds this process to its limits.
fn limit(order: &Order) -> Result<(), String> {
    let set = |resource: Resource, most: u64| {
        // Never above what the process may have already.
        let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("setting the limit {resource:?} to {most}: {error}"))
    };
    set(Resource::As, order.bytes_max)?;
    // Two steps: the first signal can be told apart from a kill.
    let seconds = order.seconds_max;
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds.saturating_add(5)) })
        .map_err(|error| format!("setting the limit of CPU time: {error}"))?;
    set(Resource::Core, 0)?;
    set(Resource::Nofile, 64)
}

fn work(order: &Order) -> Result<Reply, Reply> {
    let bytes = read(&order.wasm, order.component_bytes_max)?;
    let names = worlds::inspect(&bytes).map_err(Reply::Refused)?;
    let code_bytes = match &order.out {
        Some(out) => compile(order, &bytes, out)?,
        None => 0,
    };
    Ok(Reply::Done(ComponentInfo {
        imports: names.imports,
        exports: names.exports,
        bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        code_bytes,
    }))
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Reply> {
    let failed = |error: std::io::Error| Reply::Failed(format!("reading the component: {error}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        let text = format!("the component is larger than component_bytes_max = {bytes_max} bytes; strip it");
        return Err(Reply::Refused(text));
    }
    Ok(bytes)
}

fn compile(order: &Order, bytes: &[u8], out: &Path) -> Result<u64, Reply> {
    let failed = |error: wasmtime::Error| Reply::Failed(format!("setting up the engine: {error:#}"));
    let engine = settings::compiling_engine().map_err(failed)?;
    if settings::compatibility(&engine) != order.engine {
        return Err(Reply::Failed("the compiling child is of another build than the server".to_owned()));
    }
    let linker = linker::linker(&engine).map_err(failed)?;
    let refused = |error: wasmtime::Error| {
        let text: String = format!("{error:#}").chars().filter(|c| !c.is_control()).take(1000).collect();
        Reply::Refused(format!("the component does not fit this host: {text}"))
    };
    let code = engine.precompile_component(bytes).map_err(refused)?;
    // In place: the server watches this file.
    let written =
        std::fs::OpenOptions::new().write(true).truncate(true).open(out).and_then(|mut file| file.write_all(&code));
    written.map_err(|error| Reply::Failed(format!("writing compiled code: {error}")))?;
    // Every function's type against ours, which names alone do not tell.
    code::load(&engine, &linker, out).map_err(refused)?;
    u64::try_from(code.len()).map_err(|_| Reply::Failed("the compiled code is too large".to_owned()))
}
