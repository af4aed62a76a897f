//! How a process begins: the binary, its socket and the shared memory; then it locks itself in and says so.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::running::Running;
use super::{Process, State};
use crate::Device;
use crate::worker::arena::{Arena, Places};
use crate::worker::config::{WorkerChild, WorkerConfig};
use crate::worker::flight::Shares;
use crate::worker::message::{Begin, FromWorker, GenerationBounds, ToWorker, decode, encode};
use crate::worker::report::{Most, Reports};
use crate::worker::room::Room;
use crate::worker::socket::{Received, Socket};

/// What starts a process.
pub(in crate::worker) struct Start<'a> {
    pub(in crate::worker) config: &'a WorkerConfig,
    pub(in crate::worker) generation: GenerationBounds,
    pub(in crate::worker) child: &'a WorkerChild,
    pub(in crate::worker) ort_dylib: &'a Path,
    pub(in crate::worker) device: Device,
    pub(in crate::worker) room: Room,
}

impl Process {
    /// Starts one and waits until it is locked in. Blocking: on the thread that then [`Self::attend`]s it.
    ///
    /// # Errors
    /// For the log.
    pub(in crate::worker) fn start(start: Start<'_>) -> Result<(Arc<Self>, Running), String> {
        let Start { config, generation, child, ort_dylib, device, room } = start;
        let (socket, theirs) = Socket::pair().map_err(|error| format!("no socket: {error}"))?;
        let arena = Arena::new(config.shared_bytes_max).map_err(|error| format!("no shared memory: {error}"))?;
        let running = Running::start(child, device, theirs).map_err(|error| format!("it was not started: {error}"))?;
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
            generation,
        });
        let packet = encode(&begin, &[]).map_err(|error| error.to_string())?;
        socket.send(&packet, Some(arena.file())).map_err(|error| format!("it takes nothing: {error}"))?;
        let most = Most { sessions: config.sessions_max, memory_bytes: config.memory_bytes_max, generation };
        let process = Self {
            socket,
            arena,
            room,
            device,
            runs_max: config.runs_max as usize,
            unread_bytes_max: config.shared_bytes_max,
            stop: Duration::from_millis(config.stop_ms_max),
            idle: Duration::from_millis(config.idle_ms),
            pid: running.pid(),
            state: Mutex::new(State {
                flights: HashMap::new(),
                courses: HashMap::new(),
                unsaid: false,
                next: 0,
                places: Places::new(config.shared_bytes_max),
                shares: Shares::new(Instant::now()),
                waiting: VecDeque::new(),
                closed: false,
                failed: false,
                used: Instant::now(),
                loaded: HashSet::new(),
                reports: Reports::new(most, Instant::now()),
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
}
