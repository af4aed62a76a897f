//! What can go wrong with records and with the workflows that change them.

use mayfly_host::CompileError;
use mayfly_inference::KeepError;

use crate::{ArtifactError, ToolError};

/// The store said no.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// There is no such record.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The name is taken, or the record is in use.
    #[error("{0}")]
    Taken(String),
    /// Only the operator may; the text says why.
    #[error("{0}")]
    Operators(String),
    /// The store has no room or is read-only; the text says which. Nothing was written.
    #[error("{0}")]
    Unwritable(String),
    /// The store failed; details are in the log.
    #[error("the store could not be used")]
    Failed {
        /// For the log.
        detail: String,
    },
}

/// A change was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// What was sent is at fault; the text says what and what to do.
    #[error("{0}")]
    Invalid(String),
    /// It is larger than a limit.
    #[error("{0}")]
    TooLarge(String),
    /// There is no such thing, or the key may not see it.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It clashes with what is there.
    #[error("{0}")]
    Conflict(String),
    /// The operator has to agree first.
    #[error("{0}")]
    NotApproved(String),
    /// Only the operator may.
    #[error("{0}")]
    Operators(String),
    /// The store has no room or cannot be written.
    #[error("the host could not store this: {0}")]
    Storage(String),
    /// Ours; details are in the log.
    #[error("the host failed")]
    Host {
        /// For the log.
        detail: String,
    },
}

impl From<RecordsError> for ControlError {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::NotFound(what) => Self::NotFound(what),
            RecordsError::Taken(text) => Self::Conflict(text),
            RecordsError::Operators(text) => Self::Operators(text),
            RecordsError::Unwritable(text) => Self::Storage(text),
            RecordsError::Failed { detail } => Self::Host { detail },
        }
    }
}

impl From<ArtifactError> for ControlError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::TooLarge { .. } => Self::TooLarge(format!("the upload is {error}")),
            ArtifactError::Incomplete => Self::Invalid(error.to_string()),
            // Only digests that our own records name are looked for.
            ArtifactError::Missing(_) => Self::Host { detail: error.to_string() },
            ArtifactError::Failed { unwritable: true, detail } => Self::Storage(detail),
            ArtifactError::Failed { detail, .. } => Self::Host { detail },
        }
    }
}

impl From<CompileError> for ControlError {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Refused(text) => Self::Invalid(text),
            CompileError::TooCostly { .. } => Self::Invalid(error.to_string()),
            CompileError::Host { detail } => Self::Host { detail },
        }
    }
}

impl From<ToolError> for ControlError {
    fn from(error: ToolError) -> Self {
        match error {
            ToolError::Fit { .. } | ToolError::Keep(KeepError::Never | KeepError::Load(_)) => {
                Self::Invalid(error.to_string())
            }
            ToolError::Keep(_) => Self::Conflict(error.to_string()),
            ToolError::Code(_) | ToolError::Package { .. } => Self::Host { detail: format!("{error} ({error:?})") },
        }
    }
}
