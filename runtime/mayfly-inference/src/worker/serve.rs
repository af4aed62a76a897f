//! The worker's side: an ordinary [`Inference`] behind the socket.
//!
//! Nothing here protects anybody: once a model has taken this process over, none of it holds. What does is the sandbox,
//! and the server that checks what it hears.

mod data;
mod generate;
mod prompt;
mod run;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;

use mayfly_types::Digest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;

use super::arena::Arena;
use super::message::{Begin, Fault, FromWorker, Order, Task, ToWorker, decode, encode, short};
use super::report::Report;
use super::room;
use super::sandbox::{self, Bounds};
use super::socket::{Received, Socket};
use crate::session::Request;
use crate::{Config, Inference, Package};

/// Prompt tokens in one step here: a step is not interrupted, and a generation whose reader leaves has to be over within
/// `stop_ms_max`.
const PREFILL_CHUNK_MAX: u32 = 64;
/// Opened packages; beyond, all are opened again.
const PACKAGES_MAX: usize = 64;

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
        // Its threads are its bound.
        sessions_per_model_max: 1,
        resident_bytes_max: begin.memory_bytes_max,
        generation_slots: begin.generation.slots,
        generation_kv_bytes_max: begin.generation.kv_bytes_max,
        generation_waiting_max: begin.generation.waiting_max,
        generation_prefill_chunk_max: begin.generation.prefill_chunk_max.min(PREFILL_CHUNK_MAX),
        generation_stall_ms: begin.generation.stall_ms,
        constraint_compiles_max: begin.generation.constraint_compiles_max,
        output_bytes_max: begin.shared_bytes_max,
        ..Config::default()
    };
    let inference = Inference::start_in_room(config, &begin.room).map_err(|error| error.to_string())?;
    sandbox::close(begin.device)?;
    Ok(inference)
}

/// Hears and answers until the server is gone.
async fn serve(socket: Socket, arena: Arena, begin: Begin, inference: Inference) -> io::Result<()> {
    // SAFETY: the socket owns its descriptor and always gives the same one; both live and go together.
    #[expect(unsafe_code, reason = "there is no safe way to wait for a descriptor of our own")]
    let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
    // A few words for each run there is, of which there are `runs_max` at most, and tokens that a reader waits for.
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

/// A run, a prompt or a generation.
struct Open {
    cancel: CancellationToken,
    /// To a generation: a few words for each packet of the server's.
    words: mpsc::UnboundedSender<Word>,
    /// Where its outputs may go is told here.
    space: Option<oneshot::Sender<u64>>,
}

/// What the reader of a generation did.
enum Word {
    /// It has so many tokens of these choices, all counted.
    Read(Vec<(u32, u32)>),
    EndChoice(u32),
    Cancel,
}

impl Worker {
    fn hear(self: &Rc<Self>, packet: &[u8]) -> io::Result<()> {
        let (message, data) = decode(packet).map_err(io::Error::other)?;
        match message {
            ToWorker::Begin(_) => return Err(io::Error::other("it has begun")),
            ToWorker::Do(order) => self.begin(order, data),
            ToWorker::Stop { run } => {
                if let Some(open) = self.open.borrow().get(&run) {
                    open.cancel.cancel();
                    let _ = open.words.send(Word::Cancel);
                }
            }
            ToWorker::Space { run, at } => {
                if let Some(space) = self.open.borrow_mut().get_mut(&run).and_then(|open| open.space.take()) {
                    let _ = space.send(at);
                }
            }
            ToWorker::Read { run, tokens } => self.pass_on(run, Word::Read(tokens)),
            ToWorker::EndChoice { run, choice } => self.pass_on(run, Word::EndChoice(choice)),
            ToWorker::Cancel { run } => self.pass_on(run, Word::Cancel),
            ToWorker::Report => self.say(&FromWorker::Report(Report::of(&self.inference)), &[]),
        }
        Ok(())
    }

    /// What is over needs no word.
    fn pass_on(&self, run: u64, word: Word) {
        if let Some(open) = self.open.borrow().get(&run) {
            let _ = open.words.send(word);
        }
    }

    fn begin(self: &Rc<Self>, order: Order, data: &[u8]) {
        let run = order.run;
        let taken = self.take(&order, data);
        if order.at.is_some() {
            self.say(&FromWorker::Taken { run }, &[]);
        }
        let request = match taken {
            Ok(request) => request,
            Err(error) => return self.say(&FromWorker::Failed { run, fault: Fault::Failed(short(&error)) }, &[]),
        };
        let (words, heard) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        self.open.borrow_mut().insert(run, Open { cancel: cancel.clone(), space: None, words });
        let worker = Rc::clone(self);
        spawn_local(async move {
            let done = worker.work(&order, request, &cancel, heard).await;
            worker.open.borrow_mut().remove(&run);
            if let Err(fault) = done {
                worker.say(&FromWorker::Failed { run, fault }, &[]);
            }
        });
    }

    async fn work(
        &self,
        order: &Order,
        request: Request,
        cancel: &CancellationToken,
        heard: mpsc::UnboundedReceiver<Word>,
    ) -> Result<(), Fault> {
        let (outputs, stats) = match order.task {
            Task::Run { .. } => self.run(order, request, cancel).await?,
            Task::Prompt { chat, .. } => self.prompt(order, &request, chat).await?,
            Task::Generate { choices, reuse } => {
                return self.generate(order, &request, choices, reuse, cancel, heard).await;
            }
        };
        self.deliver(order.run, &outputs, stats, cancel).await
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
}
