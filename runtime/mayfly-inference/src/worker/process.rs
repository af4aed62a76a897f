//! The server's end of one worker process: what it was given, what it answers, and when it is killed.
//!
//! A thread of its own starts the process, hears it, and reaps it; the process dies with that thread. Callers send by
//! themselves and never wait for a worker that does not read.
//!
//! One file: the thread, the callers and the end of a process share one state under one lock, and each rule of who may kill
//! it, and when, is about all three.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, sleep_until};

use super::arena::{Arena, Place, Places};
use super::config::WorkerConfig;
use super::flight::{Announced, Answer, Flight, Shares, Started, Violation, error_of, order, outputs};
use super::message::{Begin, FromWorker, INLINE_BYTES_MAX, PacketError, ToWorker, Value, bytes_of, decode, encode};
use super::room::Room;
use super::socket::{Received, Socket};
use crate::session::Request;
use crate::{Caller, Device, LoadError, Package, RunError, WorkerError};

/// While it works a process is looked at this often, should nothing happen.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// Packets heard between two looks.
const HEARD_MAX: usize = 64;
/// More than this is copied off the async threads.
const COPY_INLINE_BYTES_MAX: u64 = 1 << 20;
/// Pause before a packet is offered again to a worker that has not taken those before.
const OFFER_AGAIN: Duration = Duration::from_millis(1);

/// How the life of a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It was not needed any more.
    Closed,
    /// It died, hung, or said what it must not; the text is for the log.
    Crashed(String),
}

/// One worker process. Clones of the handle are shared by its callers.
#[derive(Debug)]
pub(super) struct Process {
    socket: Socket,
    arena: Arena,
    room: Room,
    device: Device,
    runs_max: usize,
    stop: Duration,
    idle: Duration,
    pid: u32,
    state: Mutex<State>,
    /// Packages that it can see. Held while one is brought: two would be in each other's way.
    brought: Mutex<HashSet<Digest>>,
    /// A place in the arena became free, or the end came.
    freed: Notify,
}

struct State {
    flights: HashMap<u64, Flight>,
    /// The next run's number.
    next: u64,
    places: Places,
    shares: Shares,
    /// Runs whose outputs wait for space, in order.
    waiting: VecDeque<u64>,
    /// Takes no more.
    closed: bool,
    /// It did not end as it should; who waits for it is about to be told.
    failed: bool,
    used: Instant,
    /// What has run here.
    loaded: HashSet<Digest>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("flights", &self.flights.len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// A child that does not outlive its thread.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What became of a run that was offered.
enum Offer {
    Taken,
    /// Offer it again.
    Later,
    Full,
    Closed,
}

/// What starts a process.
pub(super) struct Start<'a> {
    pub(super) config: &'a WorkerConfig,
    pub(super) child: &'a Path,
    pub(super) ort_dylib: &'a Path,
    pub(super) device: Device,
    pub(super) room: Room,
}

impl Process {
    /// Starts one and waits until it is locked in. Blocking: on the thread that then [`Self::attend`]s it.
    ///
    /// # Errors
    /// For the log.
    pub(super) fn start(start: Start<'_>) -> Result<(Arc<Self>, Running), String> {
        let Start { config, child, ort_dylib, device, room } = start;
        let (socket, theirs) = Socket::pair().map_err(|error| format!("no socket: {error}"))?;
        let arena = Arena::new(config.shared_bytes_max).map_err(|error| format!("no shared memory: {error}"))?;
        let running = spawn(child, device, theirs).map_err(|error| format!("it was not started: {error}"))?;
        let begin = ToWorker::Begin(Begin {
            ort_dylib: ort_dylib.to_owned(),
            room: room.path().to_owned(),
            device,
            memory_bytes_max: config.memory_bytes_max,
            shared_bytes_max: config.shared_bytes_max,
            threads: config.threads(),
            runs_max: config.runs_max,
            sessions_max: config.sessions_max,
            session_idle_ms: config.idle_ms,
        });
        let packet = encode(&begin, &[]).map_err(|error| error.to_string())?;
        socket.send(&packet, Some(arena.file())).map_err(|error| format!("it takes nothing: {error}"))?;
        let process = Self {
            socket,
            arena,
            room,
            device,
            runs_max: config.runs_max as usize,
            stop: Duration::from_millis(config.stop_ms_max),
            idle: Duration::from_millis(config.idle_ms),
            pid: running.0.id(),
            state: Mutex::new(State {
                flights: HashMap::new(),
                next: 0,
                places: Places::new(config.shared_bytes_max),
                shares: Shares::new(Instant::now()),
                waiting: VecDeque::new(),
                closed: false,
                failed: false,
                used: Instant::now(),
                loaded: HashSet::new(),
            }),
            brought: Mutex::default(),
            freed: Notify::new(),
        };
        process.wait_until_ready(Instant::now() + Duration::from_millis(config.start_ms_max))?;
        process.lock().used = Instant::now();
        Ok((Arc::new(process), running))
    }

    fn wait_until_ready(&self, until: Instant) -> Result<(), String> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("it did not become ready in time (workers.start_ms_max)".to_owned());
            }
            self.wait(left)?;
            match self.socket.receive(false) {
                Ok(Received::End) => return Err("it ended while it started".to_owned()),
                Ok(Received::Packet(packet, _)) => {
                    return match decode::<FromWorker>(&packet) {
                        Ok((FromWorker::Ready, _)) => Ok(()),
                        Ok((FromWorker::Unusable(why), _)) => Err(why.chars().filter(|c| !c.is_control()).collect()),
                        _ => Err("it said something else than that it is ready".to_owned()),
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Waits until there is something to hear, or for `time`.
    fn wait(&self, time: Duration) -> Result<(), String> {
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        let time = Timespec::try_from(time).map_err(|error| error.to_string())?;
        match poll(&mut ready, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process's number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs that it was given and has not answered.
    pub(super) fn open(&self) -> usize {
        self.lock().flights.len()
    }

    /// Since its last run ended; none while it works.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.lock();
        state.flights.is_empty().then(|| state.used.elapsed())
    }

    /// Whether this package has run here.
    pub(super) fn is_loaded(&self, package: Digest) -> bool {
        self.lock().loaded.contains(&package)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether it is about to be buried for a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Takes no more runs; those it has are lost.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.socket.close();
    }

    /// Closes it if it has no work; tells whether it did.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut state = self.lock();
        let idle = state.flights.is_empty() && !state.closed;
        if idle {
            state.closed = true;
            drop(state);
            self.socket.close();
        }
        idle
    }

    /// Hears the process until it ends, one way or the other. Its thread calls it; then it is killed and reaped, and
    /// [`Self::bury`] tells those who still wait.
    pub(super) fn attend(&self) -> End {
        let end = self.hear_all();
        self.lock().failed |= matches!(end, End::Crashed(_));
        end
    }

    fn hear_all(&self) -> End {
        loop {
            let busy = !self.lock().flights.is_empty();
            let time =
                if busy { LOOK_MAX } else { self.idle.min(Duration::from_secs(1)).max(Duration::from_millis(1)) };
            if let Err(error) = self.wait(time) {
                return End::Crashed(error);
            }
            for _ in 0..HEARD_MAX {
                match self.socket.receive(false) {
                    Ok(Received::Packet(packet, _)) => {
                        if let Err(why) = self.hear(&packet) {
                            let mut state = self.lock();
                            (state.closed, state.failed) = (true, true);
                            return End::Crashed(why);
                        }
                    }
                    Ok(Received::End) => return self.ended(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return self.ended(),
                }
            }
            if let Some(end) = self.look() {
                return end;
            }
        }
    }

    fn ended(&self) -> End {
        let mut state = self.lock();
        if state.closed {
            return End::Closed;
        }
        (state.closed, state.failed) = (true, true);
        End::Crashed("it died".to_owned())
    }

    /// What time brings: a run that does not come back, or nothing to do for long.
    fn look(&self) -> Option<End> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.flights.values().any(|flight| now >= flight.until) {
            (state.closed, state.failed) = (true, true);
            return Some(End::Crashed("a run went on past its deadline (workers.stop_ms_max)".to_owned()));
        }
        if state.flights.is_empty() && state.used.elapsed() >= self.idle {
            state.closed = true;
            return Some(End::Closed);
        }
        None
    }

    /// Everything it had ends: those who wait read `error`.
    pub(super) fn bury(&self, error: impl Fn() -> WorkerError) {
        let mut state = self.lock();
        state.closed = true;
        let flights: Vec<_> = state.flights.drain().map(|(_, flight)| flight).collect();
        drop(state);
        self.freed.notify_waiters();
        for mut flight in flights {
            flight.answer(Err(error().into()));
        }
    }

    fn hear(&self, packet: &[u8]) -> Result<(), String> {
        let (message, data) = decode::<FromWorker>(packet).map_err(|error: PacketError| error.to_string())?;
        self.heard(message, data).map_err(|violation| violation.to_string())
    }

    fn heard(&self, message: FromWorker, data: &[u8]) -> Result<(), Violation> {
        match message {
            FromWorker::Ready | FromWorker::Unusable(_) => Err(Violation("it was ready before")),
            FromWorker::Taken { run } => {
                let mut state = self.lock();
                let place = state.flight(run)?.inputs.take().ok_or(Violation("inputs that were not there"))?;
                self.free(&mut state, &place);
                Ok(())
            }
            FromWorker::Started { run } => {
                let mut state = self.lock();
                if state.flight(run)?.begun.is_some() {
                    return Err(Violation("a run that begins twice"));
                }
                state.begin(run)?;
                Ok(())
            }
            FromWorker::Failed { run, fault } => {
                let mut flight = self.land(run)?;
                let error = error_of(fault, flight.begun.is_some(), self.device.as_str(), flight.output_bytes_max);
                flight.answer(Err(error));
                Ok(())
            }
            FromWorker::Outputs { run, load_us, outputs, inline: true } => self.inline(run, load_us, &outputs, data),
            FromWorker::Outputs { run, load_us, outputs, inline: false } => self.announced(run, load_us, outputs),
            FromWorker::Written { run } => self.written(run),
        }
    }

    /// Outputs that came with the word of them.
    fn inline(&self, run: u64, load_us: Option<u64>, values: &[Value], data: &[u8]) -> Result<(), Violation> {
        let mut state = self.lock();
        let flight = state.begin(run)?;
        if flight.outputs.is_some() {
            return Err(Violation("outputs twice"));
        }
        let made = match flight.check(values)? {
            Err(error) => Err(error),
            Ok(bytes) if bytes != data.len() as u64 => return Err(Violation("outputs of another size")),
            Ok(_) => {
                let mut data = data;
                outputs(&flight.wanted, values, |bytes| {
                    let (front, rest) = data.split_at_checked(bytes.len()).ok_or(Violation("too little data"))?;
                    bytes.copy_from_slice(front);
                    data = rest;
                    Ok(())
                })?
            }
        };
        drop(state);
        let mut flight = self.land(run)?;
        let stats = flight.stats(load_us);
        flight.answer(made.map(|made| (made, stats)));
        Ok(())
    }

    /// Outputs that need space in the arena.
    fn announced(&self, run: u64, load_us: Option<u64>, values: Vec<Value>) -> Result<(), Violation> {
        let mut state = self.lock();
        state.begin(run)?;
        let State { flights, places, waiting, .. } = &mut *state;
        let flight = flights.get_mut(&run).ok_or(Violation("a run that is not there"))?;
        if flight.outputs.is_some() {
            return Err(Violation("outputs twice"));
        }
        let checked = flight.check(&values)?;
        let checked = checked.and_then(|bytes| match places.could_fit(bytes) {
            true => Ok(bytes),
            false => Err(does_not_fit(bytes, "outputs")),
        });
        match checked {
            Ok(bytes) => {
                flight.outputs = Some(Announced { values, load_us, bytes, place: None });
                waiting.push_back(run);
                self.give_space(&mut state);
            }
            Err(error) => {
                // It is over when the worker has let go of it.
                flight.answer(Err(error));
                self.tell(&ToWorker::Stop { run });
            }
        }
        Ok(())
    }

    /// Outputs that are in the arena now.
    fn written(&self, run: u64) -> Result<(), Violation> {
        let mut state = self.lock();
        let flight = state.flight(run)?;
        let Some(Announced { values, load_us, place: Some(place), .. }) = &flight.outputs else {
            return Err(Violation("outputs without space"));
        };
        let (values, load_us, mut at) = (values.clone(), *load_us, place.at);
        let wanted = flight.wanted.clone();
        // Their caller may leave meanwhile; their place stays theirs.
        drop(state);
        let made = outputs(&wanted, &values, |bytes| {
            self.arena.read(at, bytes).map_err(|_| Violation("its memory could not be read"))?;
            at = at.saturating_add(bytes.len() as u64);
            Ok(())
        })?;
        let mut flight = self.land(run)?;
        let stats = flight.stats(load_us);
        flight.answer(made.map(|made| (made, stats)));
        Ok(())
    }

    /// Takes out a run that is over.
    fn land(&self, run: u64) -> Result<Flight, Violation> {
        let mut state = self.lock();
        let mut flight = state.flights.remove(&run).ok_or(Violation("a run that is not there"))?;
        state.waiting.retain(|&other| other != run);
        let places = [flight.inputs.take(), flight.outputs.take().and_then(|outputs| outputs.place)];
        for place in places.into_iter().flatten() {
            self.free(&mut state, &place);
        }
        let now = Instant::now();
        if let Some(begun) = flight.begun {
            flight.share = state.shares.end(now, begun);
        }
        state.used = now;
        Ok(flight)
    }

    fn free(&self, state: &mut State, place: &Place) {
        self.arena.give_back(place);
        state.places.free(place);
        self.give_space(state);
        self.freed.notify_waiters();
    }

    /// Outputs come before new inputs: they make room.
    fn give_space(&self, state: &mut State) {
        while let Some(&run) = state.waiting.front() {
            let Some(bytes) = state.flights.get(&run).and_then(|flight| flight.outputs.as_ref()).map(|o| o.bytes)
            else {
                state.waiting.pop_front();
                continue;
            };
            let Some(place) = state.places.take(bytes) else { return };
            state.waiting.pop_front();
            let at = place.at;
            if let Some(outputs) = state.flights.get_mut(&run).and_then(|flight| flight.outputs.as_mut()) {
                outputs.place = Some(place);
            }
            self.tell(&ToWorker::Space { run, at });
        }
    }

    /// Says a word to the worker. One that does not listen is found at its runs' deadlines.
    fn tell(&self, message: &ToWorker) {
        if let Ok(packet) = encode(message, &[])
            && let Err(error) = self.socket.send(&packet, None)
        {
            tracing::debug!(%error, pid = self.pid, "a worker did not hear");
        }
    }

    /// Runs `request` on `package`. None if the process was closed before it took the run.
    pub(super) async fn run(
        self: &Arc<Self>,
        package: &Arc<Package>,
        request: &Request,
        caller: Caller<'_>,
        started: &mut Option<Started>,
    ) -> Option<Answer> {
        let Caller { deadline, cancel, .. } = caller;
        let stopped = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = sleep_until(deadline.into()) => {}
            }
        };
        let sent = async {
            if let Err(error) = self.bring(package).await {
                return Some(Err(error));
            }
            self.send(package, request, deadline, started).await
        };
        let (run, answer) = tokio::select! {
            biased;
            () = stopped => return Some(Err(RunError::Stopped { started: false })),
            sent = sent => match sent? {
                Ok(sent) => sent,
                Err(error) => return Some(Err(error)),
            },
        };
        let mut stay = Stay { process: self, run, over: false };
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            () = cancel.cancelled() => return Some(Err(RunError::Stopped { started: stay.leave() })),
            () = sleep_until(deadline.into()) => return Some(Err(RunError::Stopped { started: stay.leave() })),
        };
        stay.over = true;
        if matches!(answer, Ok(Ok(_))) {
            self.lock().loaded.insert(package.digest());
        }
        Some(answer.unwrap_or_else(|_| Err(RunError::Failed("its process was lost".to_owned()))))
    }

    /// Lets the worker see the package.
    async fn bring(self: &Arc<Self>, package: &Arc<Package>) -> Result<(), RunError> {
        if self.is_loaded(package.digest()) {
            return Ok(());
        }
        let (process, wanted) = (Arc::clone(self), Arc::clone(package));
        let failed = |detail: String| RunError::Load(LoadError::Failed { detail });
        let bring = move || {
            let mut all = process.brought.lock().unwrap_or_else(PoisonError::into_inner);
            if !all.contains(&wanted.digest()) {
                process.room.bring(&wanted)?;
                all.insert(wanted.digest());
            }
            Ok::<_, io::Error>(())
        };
        let done = tokio::task::spawn_blocking(bring).await.map_err(|error| failed(error.to_string()))?;
        done.map_err(|error| failed(format!("its files could not be shown to its process: {error}")))
    }

    /// Hands the run over. None if the process is closed.
    async fn send(
        self: &Arc<Self>,
        package: &Package,
        request: &Request,
        deadline: Instant,
        started: &mut Option<Started>,
    ) -> Option<Result<(u64, oneshot::Receiver<Answer>), RunError>> {
        let run = {
            let mut state = self.lock();
            state.next += 1;
            state.next
        };
        let timeout = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let (mut order, keep) = order(request, run, package.digest(), timeout_ms);
        let Some(bytes) = bytes_of(&order.inputs).and_then(|bytes| bytes.checked_add(keep.len() as u64)) else {
            return Some(Err(does_not_fit(u64::MAX, "inputs")));
        };
        let mut held = None;
        if bytes > INLINE_BYTES_MAX {
            let place = match self.place(bytes).await? {
                Ok(place) => place,
                Err(error) => return Some(Err(error)),
            };
            order.at = Some(place.at);
            match self.copy_in(place, request, keep.clone(), bytes).await {
                Ok(place) => held = Some(place),
                Err(error) => return Some(Err(error)),
            }
        }
        let inline: Vec<&[u8]> = match held {
            Some(_) => Vec::new(),
            None => request.inputs.iter().map(|(_, tensor)| tensor.as_slice()).chain([&keep[..]]).collect(),
        };
        let packet = match encode(&ToWorker::Run(order), &inline) {
            Ok(packet) => packet,
            Err(_) => {
                let text = "the inputs and outputs of this run are too many to be described to its process";
                return Some(Err(RunError::TooLarge(text.to_owned())));
            }
        };
        let (reply, answer) = oneshot::channel();
        let mut flight = Some(Flight {
            started: None,
            begun: None,
            sent: Instant::now(),
            until: deadline + self.stop,
            wanted: request.outputs.clone(),
            output_bytes_max: request.output_bytes_max,
            reply: Some(reply),
            inputs: None,
            outputs: None,
            share: Duration::ZERO,
        });
        loop {
            match self.offer(run, &packet, &mut flight, &mut held, started) {
                Offer::Taken => return Some(Ok((run, answer))),
                Offer::Closed => return None,
                Offer::Full => {
                    let limit = u32::try_from(self.runs_max).unwrap_or(u32::MAX);
                    return Some(Err(RunError::QueueFull { limit }));
                }
                Offer::Later => sleep(OFFER_AGAIN).await,
            }
        }
    }

    /// Sends a run, if the worker takes it now. What it takes over is gone from `flight`, `held` and `started` then.
    fn offer(
        &self,
        run: u64,
        packet: &[u8],
        flight: &mut Option<Flight>,
        held: &mut Option<Held>,
        started: &mut Option<Started>,
    ) -> Offer {
        let mut state = self.lock();
        if state.closed {
            return Offer::Closed;
        }
        if state.flights.len() >= self.runs_max {
            return Offer::Full;
        }
        if self.socket.send(packet, None).is_err() {
            // It takes nothing now; or it has died, and its thread is about to find out.
            return Offer::Later;
        }
        if let Some(flight) = flight.take() {
            let inputs = held.take().map(Held::keep);
            // Still under the lock: no word of it is heard before.
            state.flights.insert(run, Flight { started: started.take(), inputs, sent: Instant::now(), ..flight });
        }
        Offer::Taken
    }

    /// A place for `bytes`, once there is one. None if the process is closed.
    async fn place(self: &Arc<Self>, bytes: u64) -> Option<Result<Held, RunError>> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.try_place(bytes)? {
                Ok(None) => freed.await,
                Ok(Some(place)) => {
                    return Some(Ok(Held { process: Arc::clone(self), at: place.at, place: Some(place) }));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn try_place(&self, bytes: u64) -> Option<Result<Option<Place>, RunError>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        if !state.places.could_fit(bytes) {
            return Some(Err(does_not_fit(bytes, "inputs")));
        }
        // Not before those whose outputs wait: they were here first, and make room.
        Some(Ok(if state.waiting.is_empty() { state.places.take(bytes) } else { None }))
    }

    async fn copy_in(&self, held: Held, request: &Request, keep: Vec<u8>, bytes: u64) -> Result<Held, RunError> {
        let inputs: Vec<_> = request.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        let copy = move || {
            let mut at = held.at;
            for part in inputs.iter().map(crate::Tensor::as_slice).chain([&keep[..]]) {
                held.process.arena.write(at, part)?;
                at = at.saturating_add(part.len() as u64);
            }
            Ok::<_, io::Error>(held)
        };
        let failed = |error: String| RunError::Load(LoadError::Failed { detail: format!("shared memory: {error}") });
        let copied = if bytes <= COPY_INLINE_BYTES_MAX {
            copy()
        } else {
            tokio::task::spawn_blocking(copy).await.map_err(|error| failed(error.to_string()))?
        };
        copied.map_err(|error| failed(error.to_string()))
    }

    /// The caller of `run` leaves; gives whether it owes it.
    fn leave(&self, run: u64) -> bool {
        let mut state = self.lock();
        let Some(flight) = state.flights.get_mut(&run) else { return false };
        let owed = flight.leave();
        drop(state);
        self.tell(&ToWorker::Stop { run });
        owed
    }
}

impl State {
    fn flight(&mut self, run: u64) -> Result<&mut Flight, Violation> {
        self.flights.get_mut(&run).ok_or(Violation("a run that is not there"))
    }

    /// The run has begun, if it had not.
    fn begin(&mut self, run: u64) -> Result<&mut Flight, Violation> {
        let flight = self.flights.get_mut(&run).ok_or(Violation("a run that is not there"))?;
        flight.begin(&mut self.shares);
        Ok(flight)
    }
}

fn does_not_fit(bytes: u64, what: &str) -> RunError {
    RunError::TooLarge(format!(
        "the {what} of this run take {bytes} bytes, more than there can be between the host and the process for this \
         tenant's own models (workers.shared_bytes_max); give it fewer or shorter rows"
    ))
}

/// A place that goes back, should nobody take it over.
struct Held {
    process: Arc<Process>,
    at: u64,
    place: Option<Place>,
}

impl Held {
    /// It belongs to a run now.
    fn keep(mut self) -> Place {
        self.place.take().expect("it is kept once")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut state = self.process.lock();
            self.process.free(&mut state, &place);
        }
    }
}

/// A caller that waits for its run. Dropped before `over`, it has left.
struct Stay<'a> {
    process: &'a Process,
    run: u64,
    over: bool,
}

impl Stay<'_> {
    fn leave(&mut self) -> bool {
        self.over = true;
        self.process.leave(self.run)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.leave();
        }
    }
}

/// Starts the binary with the socket as its standard input, and nothing else of ours.
fn spawn(child: &Path, device: Device, socket: Socket) -> io::Result<Running> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(child);
    command.arg("__worker").env_clear().env("ORT_DISABLE_TELEMETRY", "1");
    if device == Device::Cuda {
        // Where CUDA's libraries are.
        command.envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
    }
    command
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(socket.into_fd()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Running)
}
