//! The worker's side: an ordinary [`Inference`] behind the socket.
//!
//! Nothing here protects anybody: once a model has taken this process over, none of it holds. What does is the sandbox,
//! and the server that checks what it hears.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::arena::Arena;
use super::message::{
    Begin, Fault, FromWorker, INLINE_BYTES_MAX, Order, ToWorker, Value, bytes_of, decode, encode, short,
};
use super::room;
use super::sandbox::{self, Bounds};
use super::socket::{Received, Socket};
use crate::session::{OutputPlan, Request};
use crate::{Caller, Config, Device, Inference, LoadError, Output, Package, RunError, RunStats, Tensor, TensorError};

/// Opened packages; beyond, all are opened again.
const PACKAGES_MAX: usize = 64;
/// How often it is looked whether a run that was asked to stop has ended.
const STOP_LOOK: Duration = Duration::from_millis(10);

/// The whole of a worker: the socket is its standard input, and all it has to know comes over that. Returns the exit code
/// once the server is gone. **Call first in `main`, before any thread.**
pub fn run_worker() -> i32 {
    // Before this process has a descriptor of its own.
    if sandbox::alone().is_err() {
        return 2;
    }
    match work() {
        Ok(()) => 0,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "goes nowhere unless somebody debugs this process")]
            {
                eprintln!("{error}");
            }
            1
        }
    }
}

/// Locks itself in, opens the library, serves. An error was told to the server, if it could be.
fn work() -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let socket = Socket::received(io::stdin().as_fd().try_clone_to_owned().map_err(text)?);
    let (begin, arena) = begin(&socket)?;
    // Before the sandbox: it makes sockets of its own, and no thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let ready = lock_in(&begin);
    let said = match &ready {
        Ok(_) => FromWorker::Ready,
        Err(why) => FromWorker::Unusable(short(why)),
    };
    let packet = encode(&said, &[]).map_err(|error| error.to_string())?;
    socket.send(&packet, None).map_err(text)?;
    let inference = ready?;
    LocalSet::new().block_on(&runtime, serve(socket, arena, begin, inference)).map_err(text)
}

fn begin(socket: &Socket) -> Result<(Begin, Arena), String> {
    let mut ready = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ready, None).map_err(|error| error.to_string())?;
    match socket.receive(true).map_err(|error| error.to_string())? {
        Received::Packet(packet, Some(file)) => match decode(&packet) {
            Ok((ToWorker::Begin(begin), _)) => Ok((begin, Arena::received(file))),
            _ => Err("the first packet is not the first".to_owned()),
        },
        Received::Packet(_, None) => Err("no memory came along".to_owned()),
        Received::End => Err("the server is gone".to_owned()),
    }
}

fn lock_in(begin: &Begin) -> Result<Inference, String> {
    sandbox::enter(&Bounds {
        room: &begin.room,
        ort_dylib: &begin.ort_dylib,
        device: begin.device,
        memory_bytes_max: begin.memory_bytes_max,
        shared_bytes_max: begin.shared_bytes_max,
    })?;
    let config = Config {
        ort_dylib: Some(begin.ort_dylib.clone()),
        intra_op_threads: begin.threads,
        session_idle_ms: begin.session_idle_ms,
        queue_runs_max: begin.runs_max,
        sessions_max: begin.sessions_max,
        resident_bytes_max: begin.memory_bytes_max,
        output_bytes_max: begin.shared_bytes_max,
        prepack: false,
        ..Config::default()
    };
    let inference = Inference::start(config).map_err(|error| error.to_string())?;
    sandbox::close(begin.device)?;
    Ok(inference)
}

/// Hears and answers until the server is gone.
async fn serve(socket: Socket, arena: Arena, begin: Begin, inference: Inference) -> io::Result<()> {
    // SAFETY: the socket owns its descriptor and always gives the same one; both live and go together.
    #[expect(unsafe_code, reason = "there is no safe way to wait for a descriptor of our own")]
    let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
    // A few words for each run there is, of which there are `runs_max` at most.
    let (out, mut outbox) = mpsc::unbounded_channel();
    let worker =
        Rc::new(Worker { arena, begin, inference, out, packages: RefCell::default(), open: RefCell::default() });
    loop {
        tokio::select! {
            biased;
            Some(packet) = outbox.recv() => {
                let packet: Vec<u8> = packet;
                loop {
                    let mut ready = socket.writable().await?;
                    match ready.try_io(|socket| socket.get_ref().send(&packet, None)) {
                        Ok(sent) => break sent?,
                        Err(_would_block) => {}
                    }
                }
            }
            ready = socket.readable() => {
                let mut ready = ready?;
                match ready.try_io(|socket| socket.get_ref().receive(false)) {
                    Ok(Ok(Received::Packet(packet, _))) => worker.hear(&packet)?,
                    Ok(Ok(Received::End)) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                    Err(_would_block) => {}
                }
            }
        }
    }
}

struct Worker {
    arena: Arena,
    begin: Begin,
    inference: Inference,
    out: mpsc::UnboundedSender<Vec<u8>>,
    packages: RefCell<HashMap<Digest, Arc<Package>>>,
    /// Runs that were not answered.
    open: RefCell<HashMap<u64, Open>>,
}

struct Open {
    cancel: CancellationToken,
    /// Where its outputs may go is told here.
    space: Option<oneshot::Sender<u64>>,
}

impl Worker {
    fn hear(self: &Rc<Self>, packet: &[u8]) -> io::Result<()> {
        let (message, data) = decode(packet).map_err(io::Error::other)?;
        match message {
            ToWorker::Begin(_) => return Err(io::Error::other("it has begun")),
            ToWorker::Run(order) => self.begin_run(order, data),
            ToWorker::Stop { run } => {
                if let Some(open) = self.open.borrow().get(&run) {
                    open.cancel.cancel();
                }
            }
            ToWorker::Space { run, at } => {
                if let Some(space) = self.open.borrow_mut().get_mut(&run).and_then(|open| open.space.take()) {
                    let _ = space.send(at);
                }
            }
        }
        Ok(())
    }

    fn say(&self, message: &FromWorker, data: &[&[u8]]) {
        let packet = encode(message, data).unwrap_or_else(|error| {
            let run = match message {
                FromWorker::Outputs { run, .. } | FromWorker::Failed { run, .. } => *run,
                _ => 0,
            };
            let failed = FromWorker::Failed { run, fault: Fault::Failed(error.to_string()) };
            encode(&failed, &[]).unwrap_or_default()
        });
        let _ = self.out.send(packet);
    }

    fn begin_run(self: &Rc<Self>, order: Order, data: &[u8]) {
        let run = order.run;
        let taken = self.take(&order, data);
        if order.at.is_some() {
            self.say(&FromWorker::Taken { run }, &[]);
        }
        let request = match taken {
            Ok(request) => request,
            Err(error) => return self.say(&FromWorker::Failed { run, fault: Fault::Failed(short(&error)) }, &[]),
        };
        let cancel = CancellationToken::new();
        self.open.borrow_mut().insert(run, Open { cancel: cancel.clone(), space: None });
        let worker = Rc::clone(self);
        spawn_local(async move {
            let ran = worker.run(&order, request, &cancel).await;
            let delivered = match ran {
                Ok((outputs, stats)) => worker.deliver(run, &outputs, stats, &cancel).await,
                Err(fault) => Err(fault),
            };
            worker.open.borrow_mut().remove(&run);
            if let Err(fault) = delivered {
                worker.say(&FromWorker::Failed { run, fault }, &[]);
            }
        });
    }

    /// Copies what belongs to a run out of the packet or the arena.
    fn take(&self, order: &Order, data: &[u8]) -> Result<Request, String> {
        let mut source = Source { arena: &self.arena, at: order.at, data };
        let mut inputs = Vec::with_capacity(order.inputs.len());
        for Value { name, element_type, dimensions } in &order.inputs {
            let len = element_type.bytes_of(dimensions).map_err(|error| error.to_string())?;
            let len = usize::try_from(len).map_err(|error| error.to_string())?;
            let tensor = Tensor::fill_with(*element_type, dimensions, len, |bytes| source.fill(bytes));
            inputs.push((name.clone(), tensor.map_err(|error: Unfilled| error.0)?));
        }
        let mut outputs = Vec::with_capacity(order.outputs.len());
        for wanted in &order.outputs {
            let keep = match wanted.keep {
                None => None,
                Some(rows) => {
                    let mut bytes = vec![0; (rows as usize).saturating_mul(4)];
                    source.fill(&mut bytes).map_err(|error: Unfilled| error.0)?;
                    let (positions, _) = bytes.as_chunks::<4>();
                    Some(positions.iter().map(|position| u32::from_le_bytes(*position)).collect())
                }
            };
            outputs.push(OutputPlan { name: wanted.name.clone(), opaque: None, keep, on_read: Vec::new() });
        }
        Ok(Request { inputs, outputs, output_bytes_max: order.output_bytes_max, joint: None })
    }

    fn package(&self, digest: Digest) -> Result<Arc<Package>, Fault> {
        if let Some(package) = self.packages.borrow().get(&digest) {
            return Ok(Arc::clone(package));
        }
        let opened = Package::open(&room::place(&self.begin.room, digest));
        let package = Arc::new(opened.map_err(|error| Fault::Load(short(&error.to_string())))?);
        let mut packages = self.packages.borrow_mut();
        if packages.len() >= PACKAGES_MAX {
            packages.clear();
        }
        packages.insert(digest, Arc::clone(&package));
        Ok(package)
    }

    async fn run(
        &self,
        order: &Order,
        mut request: Request,
        cancel: &CancellationToken,
    ) -> Result<(Vec<Output>, RunStats), Fault> {
        let package = self.package(order.package)?;
        request.joint = package.joint(&request.inputs);
        let device = self.begin.device;
        let deadline = Instant::now() + Duration::from_millis(order.timeout_ms);
        let (out, run) = (self.out.clone(), order.run);
        let started = move || {
            if let Ok(packet) = encode(&FromWorker::Started { run }, &[]) {
                let _ = out.send(packet);
            }
        };
        let caller = Caller { owner: 0, deadline, cancel };
        let ran = self.inference.run_model(package.model(device), request, caller, Box::new(started)).await;
        match ran {
            Ok(done) => Ok(done),
            Err(RunError::Stopped { started: true }) => {
                self.until_ended(order.package, device).await;
                Err(Fault::Stopped)
            }
            Err(error) => Err(fault_of(error)),
        }
    }

    /// Waits until ONNX Runtime has come back from the run that was stopped: until then it is not over, and the server
    /// counts on hearing only that.
    async fn until_ended(&self, package: Digest, device: Device) {
        let runs = || {
            let models = self.inference.residency().models;
            let model = models.into_iter().find(|model| (model.digest, model.device) == (package, device));
            model.filter(|model| model.idle.is_none()).map(|model| model.runs)
        };
        let at_first = runs();
        while at_first.is_some() && runs() == at_first {
            sleep(STOP_LOOK).await;
        }
    }

    async fn deliver(
        &self,
        run: u64,
        outputs: &[Output],
        stats: RunStats,
        cancel: &CancellationToken,
    ) -> Result<(), Fault> {
        let value = |output: &Output| Value {
            name: output.name.clone(),
            element_type: output.tensor.element_type(),
            dimensions: output.tensor.dimensions().to_vec(),
        };
        let values: Vec<_> = outputs.iter().map(value).collect();
        let bytes = bytes_of(&values).ok_or_else(|| Fault::TooLarge(String::new()))?;
        let load_us = stats.load.map(|load| u64::try_from(load.as_micros()).unwrap_or(u64::MAX));
        let parts = || outputs.iter().map(|output| output.tensor.as_slice());
        if bytes <= INLINE_BYTES_MAX {
            let data: Vec<_> = parts().collect();
            self.say(&FromWorker::Outputs { run, load_us, outputs: values, inline: true }, &data);
            return Ok(());
        }
        let (sender, space) = oneshot::channel();
        if let Some(open) = self.open.borrow_mut().get_mut(&run) {
            open.space = Some(sender);
        }
        self.say(&FromWorker::Outputs { run, load_us, outputs: values, inline: false }, &[]);
        let mut at = tokio::select! {
            biased;
            at = space => at.map_err(|_| Fault::Stopped)?,
            () = cancel.cancelled() => return Err(Fault::Stopped),
        };
        for part in parts() {
            self.arena.write(at, part).map_err(|error| Fault::Failed(short(&error.to_string())))?;
            at = at.saturating_add(part.len() as u64);
        }
        self.say(&FromWorker::Written { run }, &[]);
        Ok(())
    }
}

/// Where the data of a run is, up to which it was taken.
struct Source<'a> {
    arena: &'a Arena,
    at: Option<u64>,
    data: &'a [u8],
}

/// Why a tensor was not filled.
struct Unfilled(String);

impl From<TensorError> for Unfilled {
    fn from(error: TensorError) -> Self {
        Self(error.to_string())
    }
}

impl Source<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Unfilled> {
        if let Some(at) = &mut self.at {
            self.arena.read(*at, bytes).map_err(|error| Unfilled(error.to_string()))?;
            *at = at.saturating_add(bytes.len() as u64);
            return Ok(());
        }
        let (front, rest) =
            self.data.split_at_checked(bytes.len()).ok_or_else(|| Unfilled("too little data".to_owned()))?;
        bytes.copy_from_slice(front);
        self.data = rest;
        Ok(())
    }
}

fn fault_of(error: RunError) -> Fault {
    match error {
        RunError::Stopped { .. } | RunError::Load(LoadError::Deadline) => Fault::Stopped,
        RunError::QueueFull { limit } => Fault::Full { limit },
        RunError::Load(LoadError::NoRoom | LoadError::TooManyWait { .. }) => Fault::NoRoom,
        RunError::Load(LoadError::NeverFits { needs, budget } | LoadError::NeverFitsApart { needs, budget }) => {
            Fault::NeverFits { needs, budget }
        }
        RunError::Load(LoadError::NoDevice { reason, .. }) => Fault::NoDevice(short(&reason)),
        RunError::Load(LoadError::Failed { detail }) => Fault::Load(short(&detail)),
        RunError::Failed(text) => Fault::Failed(short(&text)),
        RunError::TooLarge(text) => Fault::TooLarge(short(&text)),
        RunError::Worker(error) => Fault::Failed(short(&error.to_string())),
    }
}
