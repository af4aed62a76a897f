//! Import: copy, check the copy, describe it, load it once in a child, and only then let it have its name.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_types::Digest;
use prost::Message as _;

use super::batching::FINDING;
use super::decoder::resolve::{Graph, resolve};
use super::decoder::{Batching, DecoderInfo};
use super::describe::{Description, FORMAT};
use super::external::External;
use super::facts::{Facts, gather};
use super::graph::{Checked, check};
use super::info::ModelInfo;
use super::mapped::map;
use super::model_toml::ModelToml;
use super::onnx::ModelProto;
use super::operators::shown;
use super::outward::Plan;
use super::source::Source;
use super::store::Staged;
use super::template::{ChatTemplate, TemplateSource};
use super::{probe, roles, scan};
use crate::{Copies, ImportError};

/// What protobuf itself allows; larger models have their weights beside the graph.
const GRAPH_BYTES_MAX: u64 = 2 << 30;
/// Vocabularies and configurations.
const SIDE_BYTES_MAX: u64 = 64 << 20;

/// What an import may take.
#[derive(Debug, Clone)]
pub struct ImportPolicy {
    /// Bytes of all files together.
    pub package_bytes_max: u64,
    /// Files in the package.
    pub files_max: usize,
    /// Nesting of If/Loop/Scan bodies.
    pub subgraph_depth_max: usize,
    /// Time for the first load in the child.
    pub probe_timeout: Duration,
    /// Memory for the first load in the child.
    pub probe_bytes_max: u64,
    /// ONNX Runtime's library for the child, as in [`crate::Config::ort_dylib`].
    pub ort_dylib: Option<PathBuf>,
    /// Where a prepacked copy goes, which the first load leaves behind if it can.
    pub copies: Option<Copies>,
}

impl Default for ImportPolicy {
    fn default() -> Self {
        Self {
            package_bytes_max: 32 << 30,
            files_max: 256,
            subgraph_depth_max: 8,
            probe_timeout: Duration::from_secs(120),
            probe_bytes_max: 32 << 30,
            ort_dylib: None,
            copies: None,
        }
    }
}

/// An import that went through.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The digest over all files and the resolved description: the package's identity and its folder's name.
    pub digest: Digest,
    /// What it is.
    pub info: ModelInfo,
}

/// Checks the model at `source` (an `.onnx` file or a folder) and stores it as a new folder `DEST/<digest hex>`.
///
/// Every check of DESIGN section 5 is made; the first load happens in a child process (`child` with the arguments
/// `__probe-model`, see [`super::probe_in_child`]), under a time and a memory limit. The same content twice gives
/// the same digest and is stored once. That no prepacked copy could be made fails no import. Blocking: call it off the
/// async threads.
///
/// # Errors
/// [`ImportError`]; nothing is left in `dest`.
pub fn import(source: &Path, dest: &Path, policy: &ImportPolicy, child: &Path) -> Result<Imported, ImportError> {
    let (staged, description) = stage(source, dest, policy)?;
    let digest = staged.describe(&description)?;
    let copy = policy.copies.as_ref().and_then(|copies| copies.begin(digest, description.weight_bytes()));
    let seen = probe::check_first_load(child, staged.path(), &description, policy, copy.as_ref())?;
    staged.note(FINDING, &seen.batching)?;
    staged.commit(dest, digest)?;
    if let Some(copy) = copy.filter(|_| seen.copied)
        && let Err(error) = copy.keep()
    {
        tracing::info!(model = %digest, %error, "the prepacked copy could not be kept");
    }
    let mut info = description.info;
    seen.batching.tell(&mut info);
    Ok(Imported { digest, info })
}

/// Everything before the description is written: the files are copied and checked.
pub(super) fn stage(source: &Path, dest: &Path, policy: &ImportPolicy) -> Result<(Staged, Description), ImportError> {
    let source = Source::open(source)?;
    let mut staged = Staged::new(dest, policy)?;
    let graph = source.graph.clone();
    let file = source.file(&graph)?.ok_or_else(|| ImportError::Refused("the `.onnx` file is gone".to_owned()))?;
    staged.add(&graph, file, GRAPH_BYTES_MAX)?;
    // From here on only our own copy is read, so nobody can change a file between its check and its use.
    let mut checked = check_graph(&staged, &graph, policy)?;
    add_externals(&source, &mut staged, &checked.externals)?;
    move_weights(&mut staged, &graph, &checked, policy)?;
    for path in source.side_files() {
        if let Some(file) = source.file(&path)? {
            staged.add(&path, file, SIDE_BYTES_MAX)?;
        }
    }
    let toml = overrides(&source, &mut staged)?;
    let mut facts = gather(&staged, &toml, |file| label_file(&source, file))?;
    let (inputs, outputs) = (&mut checked.inputs, &mut checked.outputs);
    let embeddings =
        roles::resolve(inputs, outputs, &facts.settings.roles, &toml.roles).map_err(ImportError::Refused)?;
    let decoder = decoder(&checked, &mut facts, embeddings.as_deref());
    if let Some(decoder) = &decoder {
        decoder.fix_state(&mut checked.inputs, &mut checked.outputs);
    }
    let has_tokenizer = staged.size_of(Path::new("tokenizer.json")).is_some();
    let chat = if decoder.is_some() && has_tokenizer { chat_template(&staged, &mut facts)? } else { None };
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| ImportError::Refused("a file's name is not UTF-8".to_owned()))
    };
    let description = Description {
        format: FORMAT,
        graph: text(&graph)?,
        files: staged.files(),
        info: ModelInfo {
            inputs: checked.inputs,
            outputs: checked.outputs,
            has_tokenizer,
            vocab_size: facts.vocab_size,
            max_tokens: facts.max_tokens,
            pad_id: facts.pad_id,
            properties: facts.properties.into_iter().collect(),
            bytes: staged.bytes(),
            decoder,
        },
        token_types: facts.token_types,
        embeddings,
        floats: checked.floats,
        unshaped: checked.unshaped,
        chat,
        steady: checked.nature.steady,
        mixes: checked.nature.mixes,
    };
    Ok((staged, description))
}

/// How to generate with the model; whether it can be done, and why not, is a property.
fn decoder(checked: &Checked, facts: &mut Facts, embeddings: Option<&str>) -> Option<DecoderInfo> {
    let graph = Graph {
        inputs: &checked.inputs,
        outputs: &checked.outputs,
        unshaped: &checked.unshaped,
        wiring: &checked.wiring,
        embeddings,
        context: facts.max_tokens,
        vocab: facts.vocab_size,
    };
    let (decoder, text) = match resolve(graph, &facts.settings) {
        Ok(None) => return None,
        Ok(Some(decoder)) => {
            let text = match decoder.batching {
                Batching::Continuous => "continuous".to_owned(),
                Batching::ContinuousOnGpu => "continuous-on-gpu".to_owned(),
                Batching::OneAtATime => "one-at-a-time".to_owned(),
            };
            (Some(decoder), text)
        }
        Err(why) => (None, format!("no: {why}")),
    };
    facts.properties.insert("generation".to_owned(), text);
    decoder
}

/// How to make prompts of chats; whether it can be done, and why not, are properties. The child tries the template.
fn chat_template(staged: &Staged, facts: &mut Facts) -> Result<Option<ChatTemplate>, ImportError> {
    let (chat, text) = match TemplateSource::find(staged)? {
        Ok(None) => return Ok(None),
        Ok(Some(source)) => (Some(ChatTemplate::from(source)), "true".to_owned()),
        Err(why) => (None, format!("no: {why}")),
    };
    facts.properties.insert("chat".to_owned(), text);
    if chat.as_ref().is_some_and(|chat| chat.has_tools) {
        facts.properties.insert("tools".to_owned(), "true".to_owned());
    }
    Ok(chat)
}

fn check_graph(staged: &Staged, graph: &Path, policy: &ImportPolicy) -> Result<Checked, ImportError> {
    let bytes = map(&staged.open(graph)?)?;
    if bytes.get(4..8) == Some(b"ORTM") {
        return Err(ImportError::Refused(
            "the file is of the `.ort` format, which cannot be checked; import the original `.onnx`".to_owned(),
        ));
    }
    scan::scan(&bytes).map_err(ImportError::Refused)?;
    let model = ModelProto::decode(bytes).map_err(|_| ImportError::Refused(scan::CORRUPT.to_owned()))?;
    check(&model, policy).map_err(ImportError::Refused)
}

/// Moves large weights out of the graph, into a file that sessions map.
///
/// The package's digest is that of what is stored: of the graph without its weights and of the weights beside it. The same
/// model always gives the same two files, so it is stored once; one that was imported before there was this step
/// keeps its digest and its weights where they are.
fn move_weights(
    staged: &mut Staged,
    graph: &Path,
    checked: &Checked,
    policy: &ImportPolicy,
) -> Result<(), ImportError> {
    let bytes = map(&staged.open(graph)?)?;
    let Some(plan) = Plan::of(&bytes)? else { return Ok(()) };
    let beside = graph.parent().unwrap_or(Path::new(""));
    let mut location = "weights.bin".to_owned();
    while staged.size_of(&beside.join(&location)).is_some() || beside.join(&location) == graph {
        location.insert(0, '_');
    }
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| ImportError::Refused("a file's name is not UTF-8".to_owned()))
    };
    let place = beside.join(&location);
    staged.remove(graph)?;
    let rest = staged.write(&text(&place)?, |weights| plan.apply(&bytes, &location, weights))?;
    drop(bytes);
    staged.write(&text(graph)?, |file| file.write_all(&rest))?;
    // What the library will read is what was checked.
    let again = check_graph(staged, graph, policy)?;
    let size = staged.size_of(&place).unwrap_or_default();
    for external in again.externals.iter().filter(|external| external.path == Path::new(&location)) {
        external.fits(size).map_err(ImportError::Refused)?;
    }
    let interface = |checked: &Checked| (checked.inputs.clone(), checked.outputs.clone(), checked.unshaped.clone());
    if interface(&again) != interface(checked) || again.externals.len() <= checked.externals.len() {
        return Err(ImportError::Refused("its weights could not be moved out of the graph".to_owned()));
    }
    Ok(())
}

fn add_externals(source: &Source, staged: &mut Staged, externals: &[External]) -> Result<(), ImportError> {
    let beside = source.graph.parent().unwrap_or(Path::new(""));
    let mut ends: BTreeMap<&Path, Vec<&External>> = BTreeMap::new();
    for external in externals {
        ends.entry(&external.path).or_default().push(external);
    }
    for (path, ranges) in ends {
        let place: PathBuf = beside.join(path);
        if place == source.graph {
            return Err(ImportError::Refused("a tensor's external data is the `.onnx` file itself".to_owned()));
        }
        let file = source.file(&place)?.ok_or_else(|| {
            ImportError::Refused(format!("the external data file `{}` is missing", shown(&path.to_string_lossy())))
        })?;
        staged.add(&place, file, u64::MAX)?;
        let size = staged.size_of(&place).unwrap_or_default();
        for range in ranges {
            range.fits(size).map_err(ImportError::Refused)?;
        }
    }
    Ok(())
}

fn overrides(source: &Source, staged: &mut Staged) -> Result<ModelToml, ImportError> {
    for path in source.overrides() {
        if let Some(file) = source.file(&path)? {
            staged.add(&path, file, SIDE_BYTES_MAX)?;
            let text = staged.read(&path)?.unwrap_or_default();
            return ModelToml::parse(&text).map_err(ImportError::Refused);
        }
    }
    Ok(ModelToml::default())
}

fn label_file(source: &Source, name: &str) -> Result<Vec<u8>, ImportError> {
    use std::io::Read as _;
    let fault = |what: &str| ImportError::Refused(format!("model.toml: the labels file `{}` {what}", shown(name)));
    let path = super::external::confined(name).map_err(|_| fault("is not a path inside the folder"))?;
    let file = source.file(&path)?.ok_or_else(|| fault("is missing"))?;
    let mut bytes = Vec::new();
    file.take(SIDE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIDE_BYTES_MAX { Err(fault("is too large")) } else { Ok(bytes) }
}
