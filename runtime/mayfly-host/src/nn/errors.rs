//! `wasi:nn/errors`: what a guest is told, and which of our errors becomes which code.

use mayfly_inference::{InputError, LoadError, RunError, TensorError, TokenizerError};
use mayfly_types::{Name, Refusal};
use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::{ErrorCode, Host, HostError};
use crate::leftovers::discard;

/// Characters of a text that came from ONNX Runtime.
const FOREIGN_TEXT_CHARS_MAX: usize = 400;

/// The resource `error`.
#[derive(Debug, Clone)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct NnError {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    /// The call is over, and that is all.
    pub(super) is_closed: bool,
}

impl NnError {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), is_closed: false }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, text)
    }

    pub(super) fn too_large(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::TooLarge, text)
    }

    /// The same answer whether the model exists or not.
    pub(super) fn not_granted() -> Self {
        Self::new(
            ErrorCode::NotFound,
            "no model is granted under this alias; mayfly:inference/models.granted lists the aliases",
        )
    }

    /// A tenant's own model that nobody has approved, where that is needed.
    pub(super) fn not_approved(name: &Name) -> Self {
        let text = format!(
            "the model `{name}` waits for the operator's approval (mayfly models approve {name}); this host runs no \
             other models of tenants"
        );
        Self::new(ErrorCode::Security, text)
    }

    /// The response's body has ended, the caller left or the server stops.
    pub(super) fn closed() -> Self {
        let text = "the call is over; models can be used only until the response's body has ended";
        Self { is_closed: true, ..Self::new(ErrorCode::RuntimeError, text) }
    }

    pub(super) fn deadline() -> Self {
        Self::new(ErrorCode::Timeout, "the deadline of the call (deadline_ms_max) has passed")
    }

    /// Our own trouble; what it was stands in the host's log.
    pub(super) fn ours(what: &str, detail: &str) -> Self {
        tracing::error!(what, detail, "a guest's call to a model failed on the host's side");
        Self::new(ErrorCode::RuntimeError, what)
    }
}

impl From<TensorError> for NnError {
    fn from(error: TensorError) -> Self {
        let text = error.to_string();
        match error {
            TensorError::Memory(_) => Self::new(ErrorCode::RuntimeError, format!("busy: {text}")),
            _ => Self::invalid(text),
        }
    }
}

impl From<InputError> for NnError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Invalid(text) => Self::invalid(text),
            InputError::TooLarge(text) => Self::too_large(text),
            InputError::Tensor(error) => error.into(),
        }
    }
}

impl From<LoadError> for NnError {
    fn from(error: LoadError) -> Self {
        let text = error.to_string();
        match error {
            LoadError::NoDevice { .. } => Self::new(ErrorCode::UnsupportedOperation, without_paths(&text)),
            LoadError::NoRoom | LoadError::TooManyWait { .. } => {
                Self::new(ErrorCode::RuntimeError, format!("busy: {text}"))
            }
            LoadError::NeverFits { .. } | LoadError::NeverFitsApart { .. } => {
                Self::new(ErrorCode::RuntimeError, format!("unavailable: {text}"))
            }
            LoadError::Deadline => Self::new(ErrorCode::Timeout, text),
            LoadError::Failed { detail } => Self::ours(&text, &detail),
        }
    }
}

impl From<RunError> for NnError {
    fn from(error: RunError) -> Self {
        let text = error.to_string();
        match error {
            RunError::Load(error) => error.into(),
            RunError::QueueFull { .. } => Self::new(ErrorCode::RuntimeError, format!("busy: {text}")),
            RunError::Stopped { .. } => Self::new(ErrorCode::Timeout, text),
            RunError::Failed(_) => Self::new(ErrorCode::RuntimeError, without_paths(&text)),
            RunError::TooLarge(text) => Self::too_large(text),
            RunError::Worker(_) => Self::new(ErrorCode::RuntimeError, format!("busy: {text}")),
        }
    }
}

impl From<TokenizerError> for NnError {
    fn from(error: TokenizerError) -> Self {
        let text = error.to_string();
        match error {
            TokenizerError::None => Self::new(ErrorCode::UnsupportedOperation, text),
            TokenizerError::Invalid(text) => Self::invalid(text),
            TokenizerError::Failed { detail } => Self::ours(&text, &detail),
        }
    }
}

impl From<Refusal> for NnError {
    fn from(refusal: Refusal) -> Self {
        Self::new(ErrorCode::RuntimeError, refusal.message)
    }
}

/// A text of a library on one line, cut, each word that could be a path of this machine replaced by `…`.
pub(super) fn without_paths(text: &str) -> String {
    let mut clean = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(if word.contains(['/', '\\']) { "…" } else { word });
    }
    if clean.chars().count() > FOREIGN_TEXT_CHARS_MAX {
        clean = clean.chars().take(FOREIGN_TEXT_CHARS_MAX).chain(['…']).collect();
    }
    clean
}

impl Host for NnView<'_> {}

impl HostError for NnView<'_> {
    fn code(&mut self, error: Resource<NnError>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    fn data(&mut self, error: Resource<NnError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.text.clone())
    }

    fn drop(&mut self, error: Resource<NnError>) -> wasmtime::Result<()> {
        discard(self.table, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_types::RefusalKind;

    fn check(error: impl Into<NnError>, code: ErrorCode, text: &str) {
        let error = error.into();
        assert_eq!((error.code, error.text.as_str()), (code, text));
    }

    #[test]
    fn inputs() {
        check(InputError::Invalid("input `ids`: x".into()), ErrorCode::InvalidArgument, "input `ids`: x");
        check(InputError::TooLarge("rows".into()), ErrorCode::TooLarge, "rows");
        check(InputError::Tensor(TensorError::Overflow), ErrorCode::InvalidArgument, "the dimensions overflow");
    }

    #[test]
    fn loads() {
        let no_device = LoadError::NoDevice { device: "cuda", reason: "no libcuda in /usr/lib/x86".into() };
        check(no_device, ErrorCode::UnsupportedOperation, "device `cuda` is not available: no libcuda in …");
        check(LoadError::NoRoom, ErrorCode::RuntimeError, "busy: the host has no room for another model right now");
        let many = LoadError::TooManyWait { limit: 7 };
        check(
            many,
            ErrorCode::RuntimeError,
            "busy: 7 calls wait for models to be loaded already (inference.loads_waiting_max)",
        );
        let large = NnError::from(LoadError::NeverFits {
            needs: 5 << 30,
            budget: 1 << 30,
            setting: "inference.resident_bytes_max",
        });
        assert!(large.text.starts_with("unavailable: the model needs about 5120 MiB"), "{}", large.text);
        assert!(
            large.text.contains("1024 MiB") && large.text.contains("inference.resident_bytes_max"),
            "{}",
            large.text
        );
        check(RunError::Load(LoadError::Deadline), ErrorCode::Timeout, "the model was not loaded within the deadline");
        let failed = LoadError::Failed { detail: "/secret/model.onnx is odd".into() };
        check(failed, ErrorCode::RuntimeError, "the model could not be loaded");
    }

    #[test]
    fn runs() {
        check(
            RunError::QueueFull { limit: 2 },
            ErrorCode::RuntimeError,
            "busy: the model's queue is full (2 runs are waiting)",
        );
        check(RunError::Stopped { started: true }, ErrorCode::Timeout, "the run was stopped at its deadline");
        check(RunError::TooLarge("outputs".into()), ErrorCode::TooLarge, "outputs");
        let failed = RunError::Failed("Add node\n(/src/a b.cc:1) C:\\x said no".into());
        check(
            failed,
            ErrorCode::RuntimeError,
            "the model could not compute these inputs: Add node … b.cc:1) … said no",
        );
    }

    #[test]
    fn tokenizers() {
        check(TokenizerError::None, ErrorCode::UnsupportedOperation, "this model has no tokenizer");
        check(TokenizerError::Invalid("id 9".into()), ErrorCode::InvalidArgument, "id 9");
        let failed = TokenizerError::Failed { detail: "/x".into() };
        check(failed, ErrorCode::RuntimeError, "the model's tokenizer could not be loaded");
    }

    #[test]
    fn refusals_keep_their_message() {
        let refusal = Refusal { kind: RefusalKind::Rate, message: "project a: 3 of 3".into(), retry_after_ms: Some(5) };
        check(refusal, ErrorCode::RuntimeError, "project a: 3 of 3");
    }

    #[test]
    fn foreign_texts_are_cut() {
        let clean = without_paths(&"ü ".repeat(10_000));
        assert_eq!(clean.chars().count(), FOREIGN_TEXT_CHARS_MAX + 1);
    }
}
