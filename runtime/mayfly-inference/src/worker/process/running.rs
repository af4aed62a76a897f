//! What runs at the other end of the socket, until its handle is dropped.

use std::io;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use crate::worker::config::WorkerChild;
use crate::worker::socket::Socket;
use crate::{Device, library};

/// A worker. Dropped, it is ended and reaped.
#[derive(Debug)]
pub(in crate::worker) enum Running {
    Process(Child),
    /// Its thread, and its end of the socket.
    False(Option<JoinHandle<()>>, Socket),
}

impl Running {
    /// Starts `child` with its end of the socket.
    pub(super) fn start(child: &WorkerChild, device: Device, socket: Socket) -> io::Result<Self> {
        match child {
            WorkerChild::Program(program) => spawn(program, device, socket).map(Self::Process),
            WorkerChild::False(worker) => {
                let (worker, own, end) = (worker.clone(), socket.try_clone()?, socket.try_clone()?);
                let thread = thread::Builder::new().spawn(move || {
                    worker.speak(socket.into_fd());
                    end.close();
                })?;
                Ok(Self::False(Some(thread), own))
            }
        }
    }

    /// The process's number.
    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Process(child) => child.id(),
            Self::False(..) => std::process::id(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self {
            Self::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::False(thread, socket) => {
                socket.close();
                thread.take().map(JoinHandle::join);
            }
        }
    }
}

/// Starts the binary with the socket as its standard input, and nothing else of ours.
fn spawn(program: &std::path::Path, device: Device, socket: Socket) -> io::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.arg("__worker").env_clear().env("ORT_DISABLE_TELEMETRY", "1").envs(library::environment());
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
}
