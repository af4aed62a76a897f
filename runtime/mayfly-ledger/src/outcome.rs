//! How a call can end. One table for the code, the docs and the tests.

use serde::{Deserialize, Serialize};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was handed to the connection.
    Completed,
    /// The caller left before the end; work up to the stop is owed.
    ClientLeft,
    /// The deadline passed; work that had started is owed.
    Deadline,
    /// The guest trapped or broke a limit; work that had started is owed.
    GuestFault,
    /// A limit or a budget said no in mid-call; work before it is owed.
    Refused,
    /// Our own fault; nothing is owed.
    HostFault,
    /// The process died; what durable progress covers is owed.
    HostCrash,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Completed,
        Self::ClientLeft,
        Self::Deadline,
        Self::GuestFault,
        Self::Refused,
        Self::HostFault,
        Self::HostCrash,
    ];

    /// The stable text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientLeft => "client_left",
            Self::Deadline => "deadline",
            Self::GuestFault => "guest_fault",
            Self::Refused => "refused",
            Self::HostFault => "host_fault",
            Self::HostCrash => "host_crash",
        }
    }

    /// Whether what was counted is owed.
    pub const fn is_owed(self) -> bool {
        !matches!(self, Self::HostFault)
    }
}
