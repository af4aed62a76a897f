//! The first load of a package, in a child process: a model that kills the library, eats memory or never ends kills,
//! eats and keeps only that. The child makes the prepacked copy too, once it has said what it saw.

use std::path::Path;

use rustix::process::{Resource, Rlimit, nice, setrlimit};
use serde::Deserialize;

use super::batching::{RunBatching, candidate};
use super::child::{ChildLimits, ChildWork, first_load};
use super::describe::Description;
use super::import::ImportPolicy;
use super::info::TensorInfo;
use super::open::Package;
use crate::copies::Draft;
use crate::{Config, ElementType, ImportError};

/// A copy yields to calls by this much.
const COPY_NICENESS: i32 = 10;

/// What the child was told on its command line.
struct Task<'a> {
    folder: &'a Path,
    bytes_max: u64,
    seconds_max: u64,
    /// Where the copy goes, and the most bytes of one file of it.
    copy: Option<(&'a Path, u64)>,
}

impl<'a> Task<'a> {
    fn parse(args: &'a [String]) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| "the limits of the first load are not numbers".to_owned());
        let expected = "expected FOLDER --bytes-max N --seconds-max N [--copy-to FOLDER --copy-file-bytes-max N]";
        let (folder, bytes, seconds, rest) = match args {
            [folder, bytes_flag, bytes, seconds_flag, seconds, rest @ ..]
                if bytes_flag == "--bytes-max" && seconds_flag == "--seconds-max" =>
            {
                (folder, bytes, seconds, rest)
            }
            _ => return Err(expected.to_owned()),
        };
        let copy = match rest {
            [] => None,
            [to_flag, to, bytes_flag, bytes] if to_flag == "--copy-to" && bytes_flag == "--copy-file-bytes-max" => {
                Some((Path::new(to), number(bytes)?))
            }
            _ => return Err(expected.to_owned()),
        };
        Ok(Self { folder: Path::new(folder), bytes_max: number(bytes)?, seconds_max: number(seconds)?, copy })
    }

    fn work(&self) -> Result<(), String> {
        limit(&[(Resource::As, self.bytes_max), (Resource::Cpu, self.seconds_max), (Resource::Core, 0)])?;
        probe(self.folder, &Config::default())?;
        let Some((to, file_bytes_max)) = self.copy else { return Ok(()) };
        // The answer is out: whatever happens from here on, the model has loaded.
        limit(&[(Resource::Fsize, file_bytes_max)])?;
        nice(COPY_NICENESS).map_err(|error| format!("the copy could not be made to yield: {error}"))?;
        let package = Package::open(self.folder).map_err(|error| error.to_string())?;
        crate::session::save_copy(&package.graph_path(), to, &Config::default())
    }
}

/// The whole of the child: `args` are `FOLDER --bytes-max N --seconds-max N`, and `--copy-to FOLDER
/// --copy-file-bytes-max N` where a prepacked copy is wanted, as [`crate::import`] gives them.
/// Limits this process, then calls [`probe`], then makes the copy. Returns the exit code.
pub fn probe_in_child(args: &[String]) -> i32 {
    match Task::parse(args).and_then(|task| task.work()) {
        Ok(()) => 0,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "standard error is how a child says why")]
            {
                eprintln!("{error}");
            }
            1
        }
    }
}

/// Memory, CPU time (of all threads together), no core file, later the size of files.
fn limit(limits: &[(Resource, u64)]) -> Result<(), String> {
    for &(resource, most) in limits {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("a limit of the first load could not be set: {error}"))?;
    }
    Ok(())
}

/// The child's side of [`crate::import`]: loads the package once, prints what the library says of its inputs and outputs.
/// Sets no limits: [`probe_in_child`] does.
///
/// # Errors
/// The text to print on standard error.
pub fn probe(folder: &Path, config: &Config) -> Result<(), String> {
    let package = Package::open(folder).map_err(|error| error.to_string())?;
    package.check_tokenizer()?;
    package.check_chat_template()?;
    let (mut session, answer) = crate::session::probe_load(&package.graph_path(), config)?;
    say(&answer);
    // The model has loaded. What comes now may take long or fail without spoiling that.
    let batching = match candidate(package.description()) {
        Ok(pads) => crate::session::try_joining(&mut session, &package, pads),
        Err(why) => RunBatching::alone(why),
    };
    say(&serde_json::to_string(&batching).map_err(|error| error.to_string())?);
    Ok(())
}

/// A line on the way back to the import.
fn say(line: &str) {
    #[expect(clippy::print_stdout, reason = "standard output is the way back to the import")]
    {
        println!("{line}");
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    inputs: Vec<Outlet>,
    outputs: Vec<Outlet>,
}

#[derive(Debug, Deserialize)]
struct Outlet {
    name: String,
    #[serde(rename = "type")]
    element_type: Option<ElementType>,
}

/// What the first load told.
pub(super) struct FirstLoad {
    /// The prepacked copy was made, where one was wanted.
    pub(super) copied: bool,
    pub(super) batching: RunBatching,
}

/// The parent's side: loads `folder` in `child` and compares what it saw with `description`. That the child ran out of
/// time behind that, or could not make the copy, is no fault of the model's first load; that its runs kill the library is.
pub(super) fn check_first_load(
    child: &Path,
    folder: &Path,
    description: &Description,
    policy: &ImportPolicy,
    copy: Option<&Draft>,
) -> Result<FirstLoad, ImportError> {
    let limits = ChildLimits {
        timeout: policy.probe_timeout,
        bytes_max: policy.probe_bytes_max,
        ort_dylib: policy.ort_dylib.as_deref(),
    };
    let heard = first_load(child, &ChildWork { folder, limits, copy, wanted: &|| true })?;
    // Each answer is a line, and it is whole if the line is.
    let mut lines = heard.stdout.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let (loaded, batching) = (lines.next(), lines.next());
    if let Err(why) = &heard.ended {
        let went_well = batching.is_some() || (loaded.is_some() && heard.too_long);
        if !went_well {
            return Err(ImportError::Probe(why.clone()));
        }
        tracing::info!(why, "a model was loaded for the first time, and what comes after that was not done");
    }
    let unreadable = || ImportError::Probe("the child gave no answer that can be read".to_owned());
    let answer: Answer = serde_json::from_slice(loaded.ok_or_else(unreadable)?).map_err(|_| unreadable())?;
    agree("input", &description.info.inputs, &answer.inputs, true)?;
    agree("output", &description.info.outputs, &answer.outputs, false)?;
    let batching = match batching {
        Some(line) => serde_json::from_slice::<RunBatching>(line).map_err(|_| unreadable())?.checked(description),
        None => RunBatching::alone("trying it took too long"),
    };
    Ok(FirstLoad { copied: heard.ended.is_ok(), batching })
}

/// What the library found must be what was checked.
fn agree(what: &str, ours: &[TensorInfo], theirs: &[Outlet], some_may_be_optional: bool) -> Result<(), ImportError> {
    for tensor in ours {
        let seen = theirs.iter().find(|outlet| outlet.name == tensor.name);
        if seen.is_none_or(|outlet| outlet.element_type != Some(tensor.element_type)) {
            return Err(ImportError::Refused(format!(
                "ONNX Runtime does not see the {what} `{}` as the file describes it",
                tensor.name
            )));
        }
    }
    // Inputs with a default value stay out of our list; the library may name them.
    if !some_may_be_optional && theirs.len() != ours.len() {
        return Err(ImportError::Refused(format!(
            "ONNX Runtime sees {} {what}s and the file describes {}",
            theirs.len(),
            ours.len()
        )));
    }
    Ok(())
}
