//! What goes wrong in a worker: how the worker says it, and what of that a caller is told.
//!
//! Texts of a worker are a model's, or a library's that a model can make say anything: they end, name no paths, and have
//! no control characters.

use super::flight::{Unanswered, Violation, too_large};
use super::message::{Fault, GenerationFault, short};
use crate::session::readable;
use crate::{ChatError, GenerationError, LoadError, OptionError, RunError, TokenizerError};

/// What a worker says of a run.
pub(super) fn of_run(error: RunError) -> Fault {
    match error {
        RunError::Stopped { .. } => Fault::Stopped,
        RunError::QueueFull { limit } => Fault::Full { limit },
        RunError::Load(error) => of_load(error),
        RunError::Failed(text) => Fault::Failed(short(&text)),
        RunError::TooLarge(text) => Fault::TooLarge(short(&text)),
        RunError::Worker(error) => Fault::Failed(short(&error.to_string())),
    }
}

fn of_load(error: LoadError) -> Fault {
    match error {
        LoadError::Deadline => Fault::Stopped,
        LoadError::NoRoom | LoadError::TooManyWait { .. } => Fault::NoRoom,
        LoadError::NeverFits { needs, budget, .. } | LoadError::NeverFitsApart { needs, budget } => {
            Fault::NeverFits { needs, budget }
        }
        LoadError::NoDevice { reason, .. } => Fault::NoDevice(short(&reason)),
        LoadError::Failed { detail } => Fault::Load(short(&detail)),
    }
}

/// What a worker says of a prompt.
pub(super) fn of_prompt(error: ChatError) -> Fault {
    Fault::Prompt(with_texts(error, short))
}

/// What a worker says of a generation.
pub(super) fn of_generation(error: GenerationError) -> Fault {
    let fault = match error {
        GenerationError::Stopped => return Fault::Stopped,
        GenerationError::Load(error) => return of_load(error),
        GenerationError::Failed(text) => return Fault::Failed(short(&text)),
        // The server checks these before.
        error @ (GenerationError::Worker(_)
        | GenerationError::ContextOverflow { .. }
        | GenerationError::Option(OptionError::Range { .. })) => return Fault::Failed(short(&error.to_string())),
        GenerationError::Option(OptionError::Keyword { keyword, at, reason }) => {
            GenerationFault::Keyword { keyword: short(&keyword), at: short(&at), reason: short(&reason) }
        }
        GenerationError::Option(OptionError::TooLarge { detail, .. }) => GenerationFault::TooLarge(short(&detail)),
        GenerationError::Option(OptionError::Unusable { detail, .. }) => GenerationFault::Unusable(short(&detail)),
        GenerationError::Option(OptionError::Vocabulary(text)) => GenerationFault::Vocabulary(short(&text)),
        GenerationError::NotADecoder => GenerationFault::NotADecoder,
        GenerationError::Busy { waiting, limit } => GenerationFault::Busy { waiting, limit },
        GenerationError::BusyCompiling { limit } => GenerationFault::BusyCompiling { limit },
        GenerationError::NeverFits { tokens, limit } => GenerationFault::NeverFits { tokens, limit },
        GenerationError::Stalled => GenerationFault::Stalled,
    };
    Fault::Generation(fault)
}

/// What a worker's fault is to the caller of a run, or of a prompt. `begun`: whether the run was owed.
///
/// # Errors
/// [`Violation`] for a fault of something else.
pub(super) fn run_error(
    fault: Fault,
    begun: bool,
    device: &'static str,
    output_bytes_max: u64,
) -> Result<Unanswered, Violation> {
    let error = match fault {
        Fault::Stopped => RunError::Stopped { started: begun },
        Fault::Full { limit } => RunError::QueueFull { limit },
        Fault::Failed(text) => RunError::Failed(readable(&text)),
        Fault::TooLarge(_) => too_large(output_bytes_max),
        Fault::Prompt(error) => return Ok(Unanswered::Prompt(with_texts(error, readable))),
        Fault::Generation(_) => return Err(Violation("a generation's fault of a run")),
        load @ (Fault::NoRoom | Fault::NeverFits { .. } | Fault::NoDevice(_) | Fault::Load(_)) => {
            load_error(load, device).into()
        }
    };
    Ok(error.into())
}

fn load_error(fault: Fault, device: &'static str) -> LoadError {
    match fault {
        Fault::NoRoom => LoadError::NoRoom,
        Fault::NeverFits { needs, budget } => LoadError::NeverFitsApart { needs, budget },
        Fault::NoDevice(reason) => LoadError::NoDevice { device, reason: readable(&reason) },
        Fault::Load(detail) => LoadError::Failed { detail: readable(&detail) },
        other => LoadError::Failed { detail: format!("{other:?}") },
    }
}

/// `error` with each of its texts as `text` makes it.
fn with_texts(error: ChatError, text: fn(&str) -> String) -> ChatError {
    match error {
        ChatError::Invalid(said) => ChatError::Invalid(text(&said)),
        ChatError::Raised(said) => ChatError::Raised(text(&said)),
        ChatError::Failed { detail } => ChatError::Failed { detail: text(&detail) },
        ChatError::Tokenizer(TokenizerError::Invalid(said)) => TokenizerError::Invalid(text(&said)).into(),
        ChatError::Tokenizer(TokenizerError::Failed { detail }) => {
            TokenizerError::Failed { detail: text(&detail) }.into()
        }
        other @ (ChatError::NoTemplate
        | ChatError::OutOfFuel { .. }
        | ChatError::TooLong { .. }
        | ChatError::Tokenizer(TokenizerError::None)) => other,
    }
}

/// A JSON pointer, which has slashes and is no path of this machine.
fn pointer(text: &str) -> String {
    match text.strip_prefix('#') {
        Some(rest) => std::iter::once('#').chain(rest.chars().filter(|c| !c.is_control()).take(200)).collect(),
        None => readable(text),
    }
}

/// What a worker's fault is to the caller of a generation with a constraint of this `kind`.
///
/// # Errors
/// [`Violation`] for a fault of something else.
pub(super) fn generation_error(
    fault: Fault,
    device: &'static str,
    kind: &'static str,
) -> Result<GenerationError, Violation> {
    Ok(match fault {
        Fault::Stopped => GenerationError::Stopped,
        Fault::Failed(text) => GenerationError::Failed(readable(&text)),
        Fault::Full { .. } | Fault::TooLarge(_) | Fault::Prompt(_) => {
            return Err(Violation("another fault than a generation's"));
        }
        Fault::Generation(fault) => match fault {
            GenerationFault::Keyword { keyword, at, reason } => {
                OptionError::Keyword { keyword: readable(&keyword), at: pointer(&at), reason: readable(&reason) }.into()
            }
            GenerationFault::TooLarge(detail) => OptionError::TooLarge { kind, detail: readable(&detail) }.into(),
            GenerationFault::Unusable(detail) => OptionError::Unusable { kind, detail: readable(&detail) }.into(),
            GenerationFault::Vocabulary(text) => OptionError::Vocabulary(readable(&text)).into(),
            GenerationFault::NotADecoder => GenerationError::NotADecoder,
            GenerationFault::Busy { waiting, limit } => GenerationError::Busy { waiting, limit },
            GenerationFault::BusyCompiling { limit } => GenerationError::BusyCompiling { limit },
            GenerationFault::NeverFits { tokens, limit } => GenerationError::NeverFits { tokens, limit },
            GenerationFault::Stalled => GenerationError::Stalled,
        },
        load @ (Fault::NoRoom | Fault::NeverFits { .. } | Fault::NoDevice(_) | Fault::Load(_)) => {
            load_error(load, device).into()
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn run(fault: Fault, begun: bool) -> String {
        match run_error(fault, begun, "cpu", 7).unwrap() {
            Unanswered::Run(error) => error.to_string(),
            Unanswered::Prompt(error) => error.to_string(),
        }
    }

    #[test]
    fn texts_of_a_worker_name_no_paths_and_end() {
        assert_eq!(
            run(Fault::Failed("in /srv/x no\u{1b}".into()), true),
            "the model could not compute these inputs: in no"
        );
        assert!(run(Fault::Failed("é".repeat(9000)), true).chars().count() < 400);
        assert!(run(Fault::TooLarge("whatever".into()), true).contains("7 bytes"));
        let raised = run(Fault::Prompt(ChatError::Raised("no \u{1b}[31m /etc/x".repeat(100))), true);
        assert!(!raised.contains('\u{1b}') && !raised.contains("/etc") && raised.len() < 600, "{raised}");
        let keyword = Fault::Generation(GenerationFault::Keyword {
            keyword: "x\u{7}".repeat(1000),
            at: "#".to_owned(),
            reason: "/etc/passwd".to_owned(),
        });
        let text = generation_error(keyword, "cpu", "JSON schema").unwrap().to_string();
        assert!(!text.contains('\u{7}') && !text.contains("passwd") && text.len() < 2000, "{text}");
    }

    #[test]
    fn a_model_too_large_for_its_process_names_the_process_s_limit() {
        let large = run(Fault::NeverFits { needs: 5 << 30, budget: 1 << 30 }, false);
        assert!(large.contains("5120 MiB") && large.contains("1024 MiB (workers.memory_bytes_max)"), "{large}");
        assert!(!large.contains("inference."), "{large}");
    }

    #[test]
    fn whether_a_stopped_run_is_owed_is_not_the_worker_s_to_say() {
        let stopped = |begun| match run_error(Fault::Stopped, begun, "cpu", 7).unwrap() {
            Unanswered::Run(RunError::Stopped { started }) => started,
            other => panic!("{other:?}"),
        };
        assert_eq!((stopped(false), stopped(true)), (false, true));
    }

    #[test]
    fn faults_of_something_else_break_the_protocol() {
        assert!(run_error(Fault::Generation(GenerationFault::Stalled), true, "cpu", 7).is_err());
        assert!(generation_error(Fault::Full { limit: 1 }, "cpu", "x").is_err());
        assert!(generation_error(Fault::Prompt(ChatError::NoTemplate), "cpu", "x").is_err());
    }

    #[test]
    fn what_is_said_of_a_generation_is_what_its_caller_reads() {
        let check = |error: GenerationError| {
            let expect = error.to_string();
            assert_eq!(generation_error(of_generation(error), "cpu", "JSON schema").unwrap().to_string(), expect);
        };
        check(GenerationError::Stopped);
        check(GenerationError::Stalled);
        check(GenerationError::Busy { waiting: 3, limit: 3 });
        check(GenerationError::NeverFits { tokens: 9, limit: 8 });
        check(OptionError::Unusable { kind: "JSON schema", detail: "it is empty".into() }.into());
        check(OptionError::TooLarge { kind: "JSON schema", detail: "9 bytes; at most 8".into() }.into());
        check(GenerationError::Failed("the model gave no usable numbers".into()));
        check(LoadError::NoRoom.into());
        check(OptionError::Keyword { keyword: "if".into(), at: "#/a/b".into(), reason: "it cannot be".into() }.into());
    }
}
