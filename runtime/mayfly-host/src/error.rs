//! What can go wrong: the guest's faults are data, ours are errors.

/// The host could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// wasmtime refused the settings, or the pool does not fit this machine.
    #[error("the WebAssembly engine could not be set up: {0}")]
    Engine(String),
    /// The code folder or its key.
    #[error("the code folder could not be used")]
    Io(#[from] std::io::Error),
}

/// An uploaded component was not compiled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompileError {
    /// Its bytes are at fault; the text says what and how to mend it.
    #[error("{0}")]
    Refused(String),
    /// It took more time or memory than the host gives.
    #[error(
        "compiling the component took more than {limit}; make it smaller (release build, `opt-level = \"s\"`, strip)"
    )]
    TooCostly {
        /// The limit that was hit, with its unit.
        limit: String,
    },
    /// Our own trouble; details are in the log.
    #[error("the component could not be compiled on this host")]
    Host {
        /// For the log.
        detail: String,
    },
}

/// Stored code could not be mapped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CodeError {
    /// There is none for this digest and engine: compile again.
    #[error("no compiled code is stored for this component")]
    Missing,
    /// The checksum or the engine does not fit: compile again.
    #[error("the stored compiled code is damaged")]
    Damaged,
    /// Our own trouble.
    #[error("the compiled code could not be loaded")]
    Host {
        /// For the log.
        detail: String,
    },
}

/// What a guest did wrong. The text may be shown to its developer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// A trap: unreachable, out of bounds, stack overflow, a forbidden host call.
    #[error("the handler trapped: {0}")]
    Trap(String),
    /// Used its CPU time.
    #[error("the handler used more than guest_cpu_ms_max = {limit_ms} ms of CPU time")]
    CpuLimit {
        /// The limit.
        limit_ms: u64,
    },
    /// Asked for more memory than it may have.
    #[error("the handler needed more memory than memory_bytes_max = {limit_bytes}")]
    MemoryLimit {
        /// The limit.
        limit_bytes: u64,
    },
    /// Ended the process.
    #[error("the handler called exit")]
    Exit,
    /// Returned, or was dropped, without an answer.
    #[error("the handler ended without setting a response")]
    NoResponse,
    /// Answered with an error code or with something that cannot be sent.
    #[error("the handler's response was refused: {0}")]
    BadResponse(String),
    /// Another limit of the revision.
    #[error("{0}")]
    Limit(String),
}

/// A request was not answered by its guest.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostError {
    /// As many instances as the host has are alive: a 503 with a short wait.
    #[error("all {limit} instances of this host are busy")]
    Busy {
        /// The pool's size.
        limit: u32,
    },
    /// The guest's fault.
    #[error(transparent)]
    Guest(#[from] GuestFault),
    /// The caller's fault: the request is larger than the revision takes. The guest never saw it.
    #[error("the request's {part} is larger than {limit_name} = {limit} bytes")]
    RequestTooLarge {
        /// `body` or `head`.
        part: &'static str,
        /// The name of the limit.
        limit_name: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The deadline passed before a head was there.
    #[error("the deadline of {limit_ms} ms passed")]
    Deadline {
        /// The limit.
        limit_ms: u64,
    },
    /// The caller left, or the server is stopping.
    #[error("the call was cancelled")]
    Cancelled,
    /// Our own trouble; details are in the log.
    #[error("the host could not run the handler")]
    Host {
        /// For the log.
        detail: String,
    },
}
