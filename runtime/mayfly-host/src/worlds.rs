//! Which components fit this host, told from their bytes before anything is compiled. Runs in the compiling child only.

use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

/// What a guest must export.
const HANDLER: &str = "wasi:http/incoming-handler";

/// Interfaces of WASI 0.2 that are linked, whatever the patch version.
const WASI_02: [(&str, &[&str]); 7] = [
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:clocks", &["monotonic-clock", "wall-clock"]),
    ("wasi:filesystem", &["preopens", "types"]),
    ("wasi:http", &["outgoing-handler", "types"]),
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:random", &["insecure", "insecure-seed", "random"]),
    (
        "wasi:sockets",
        &["instance-network", "ip-name-lookup", "network", "tcp", "tcp-create-socket", "udp", "udp-create-socket"],
    ),
];

/// Release candidates, linked under this exact version only.
const EXACT: [&str; 9] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:nn/errors@0.2.0-rc-2024-10-28",
    "wasi:nn/graph@0.2.0-rc-2024-10-28",
    "wasi:nn/inference@0.2.0-rc-2024-10-28",
    "wasi:nn/tensor@0.2.0-rc-2024-10-28",
    "wasi:nn/types@0.2.0-rc-2024-10-28",
];

/// Our own, any patch version of 0.1.
const MAYFLY: [&str; 3] = ["generation", "models", "tokenizer"];

/// Names at the outside of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

/// Reads and checks `bytes`.
///
/// # Errors
/// What does not fit, all of it, and how to mend it.
pub(crate) fn inspect(bytes: &[u8]) -> Result<Names, String> {
    check_kind(bytes)?;
    let features = WasmFeatures::default() - WasmFeatures::CM_ASYNC - WasmFeatures::THREADS;
    Validator::new_with_features(features).validate_all(bytes).map_err(|error| {
        format!("the component is damaged, cut off or uses a feature this host has not: {}", text(&error))
    })?;
    let names = names(bytes).map_err(|error| format!("the component is damaged: {}", text(&error)))?;
    check_names(&names)?;
    Ok(names)
}

/// The message may show names of the component's own: bounded, without control characters.
fn text(error: &wasmparser::BinaryReaderError) -> String {
    const MESSAGE_CHARS_MAX: usize = 400;
    let message = error.message().replace('\n', " ");
    let message: String = message.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
    format!("{message} (at byte {})", error.offset())
}

fn check_kind(bytes: &[u8]) -> Result<(), String> {
    let not_wasm = "this is not a WebAssembly component (it does not begin with `\\0asm`)";
    if bytes.starts_with(b"(") {
        return Err("this is WebAssembly text; send the binary form".to_owned());
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(not_wasm.to_owned());
    }
    if bytes.len() < 8 {
        return Err("the component is cut off: it ends within its header".to_owned());
    }
    match Parser::new(0).parse_all(bytes).next() {
        Some(Ok(Payload::Version { encoding: Encoding::Component, .. })) => Ok(()),
        Some(Ok(Payload::Version { encoding: Encoding::Module, .. })) => Err(
            "this is a core WebAssembly module, not a component; build with `cargo build --target wasm32-wasip2`, or wrap \
             it with `wasm-tools component new`"
                .to_owned(),
        ),
        Some(Err(error)) => Err(format!("this version of WebAssembly is not known: {}", text(&error))),
        _ => Err(not_wasm.to_owned()),
    }
}

/// Names of the outermost component only; nested ones may wire up what they like among themselves.
fn names(bytes: &[u8]) -> Result<Names, wasmparser::BinaryReaderError> {
    let mut names = Names::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth = depth.saturating_add(1),
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    names.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    names.imports.sort_unstable();
    names.exports.sort_unstable();
    Ok(names)
}

/// `0.2.N` with nothing after it.
fn is_patch_of(version: &str, minor: &str) -> bool {
    let Some(patch) = version.strip_prefix(minor).and_then(|rest| rest.strip_prefix('.')) else { return false };
    !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_linked(import: &str) -> bool {
    if EXACT.contains(&import) {
        return true;
    }
    let Some((path, version)) = import.split_once('@') else { return false };
    let Some((package, interface)) = path.split_once('/') else { return false };
    if package == "mayfly:inference" {
        return MAYFLY.contains(&interface) && is_patch_of(version, "0.1");
    }
    WASI_02.iter().any(|(name, interfaces)| *name == package && interfaces.contains(&interface))
        && is_patch_of(version, "0.2")
}

fn check_names(names: &Names) -> Result<(), String> {
    // As many as somebody reads: a component may have any number of imports.
    const SHOWN_MAX: usize = 50;
    let mut wrong = names.imports.iter().filter(|import| !is_linked(import));
    let mut problems: Vec<String> = wrong.by_ref().take(SHOWN_MAX).map(|import| unlinked(import)).collect();
    let more = wrong.count();
    if more > 0 {
        problems.push(format!("it imports {more} more that this host does not have"));
    }
    let handler = |name: &String| {
        name.split_once('@').is_some_and(|(path, version)| path == HANDLER && is_patch_of(version, "0.2"))
    };
    if !names.exports.iter().any(handler) {
        let exported = if names.exports.is_empty() { "nothing".to_owned() } else { shown(&names.exports) };
        problems.push(format!("it must export {HANDLER}@0.2.x, and exports {exported}"));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!("the component does not fit this host: {}", problems.join("; ")))
}

fn unlinked(import: &str) -> String {
    let known = import.split_once('@').map_or(import, |(path, _)| path);
    let offered = EXACT.iter().find(|exact| exact.split_once('@').is_some_and(|(path, _)| path == known));
    let import = shown(std::slice::from_ref(&import.to_owned()));
    match offered {
        Some(exact) => format!("it imports {import}; this host has {exact}"),
        None => format!("it imports {import}, which this host does not have"),
    }
}

/// Names are the component's own: bounded, without control characters.
fn shown(names: &[String]) -> String {
    const NAMES_MAX: usize = 20;
    const NAME_CHARS_MAX: usize = 120;
    let clean = |name: &String| name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect::<String>();
    let mut list = names.iter().take(NAMES_MAX).map(clean).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        list.push_str(", …");
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(imports: &[&str], exports: &[&str], expect: Result<(), &str>) {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let result = check_names(&Names { imports: own(imports), exports: own(exports) });
        let expect = expect.map_err(|text| format!("the component does not fit this host: {text}"));
        assert_eq!(result, expect);
    }

    #[test]
    fn worlds_that_fit() {
        let handler = &["wasi:http/incoming-handler@0.2.3"];
        check(&[], handler, Ok(()));
        check(&["wasi:http/types@0.2.0", "wasi:cli/environment@0.2.6", "wasi:io/poll@0.2.12"], handler, Ok(()));
        check(&["wasi:nn/tensor@0.2.0-rc-2024-10-28", "wasi:config/store@0.2.0-rc.1"], handler, Ok(()));
        check(&["wasi:keyvalue/store@0.2.0-draft", "wasi:keyvalue/batch@0.2.0-draft"], handler, Ok(()));
        check(&["mayfly:inference/models@0.1.4", "mayfly:inference/generation@0.1.0"], handler, Ok(()));
    }

    #[test]
    fn everything_that_does_not_fit_is_listed() {
        check(
            &["wasi:keyvalue/store@0.2.0", "wasi:http/types@0.3.0", "wasi:nn/tensor@0.2.0-rc-2025-01-01"],
            &["wasi:cli/run@0.2.0"],
            Err("it imports wasi:keyvalue/store@0.2.0; this host has wasi:keyvalue/store@0.2.0-draft; \
                 it imports wasi:http/types@0.3.0, which this host does not have; \
                 it imports wasi:nn/tensor@0.2.0-rc-2025-01-01; this host has wasi:nn/tensor@0.2.0-rc-2024-10-28; \
                 it must export wasi:http/incoming-handler@0.2.x, and exports wasi:cli/run@0.2.0"),
        );
        check(
            &[],
            &["wasi:http/incoming-handler@0.2.0-rc-2023-11-10"],
            Err(
                "it must export wasi:http/incoming-handler@0.2.x, and exports wasi:http/incoming-handler@0.2.0-rc-2023-11-10",
            ),
        );
        check(
            &["mayfly:inference/models@0.2.0", "host"],
            &["wasi:http/incoming-handler@0.2.0"],
            Err("it imports mayfly:inference/models@0.2.0, which this host does not have; \
             it imports host, which this host does not have"),
        );
    }

    #[test]
    fn what_is_said_is_bounded_and_without_control_characters() {
        let imports = (0..100_000).map(|at| format!("acme:odd/thing{at}")).collect();
        let error = check_names(&Names { imports, exports: Vec::new() }).expect_err("none of these is linked");
        assert!(error.contains("thing49,") && error.contains("99950 more") && error.len() < 10_000, "{error}");
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        let name = b"wasi:a\x01\x1b\n/b";
        // An export section of one name, which is no name.
        bytes.extend([
            11,
            u8::try_from(name.len()).expect("short") + 6,
            1,
            1,
            u8::try_from(name.len()).expect("short"),
        ]);
        bytes.extend(name);
        bytes.extend([1, 0, 0]);
        let error = inspect(&bytes).expect_err("that is no name");
        assert!(!error.contains(char::is_control), "{error:?}");
    }

    #[test]
    fn kinds() {
        for (bytes, expect) in [
            (&b""[..], "not a WebAssembly component"),
            (b"\x7fELF", "not a WebAssembly component"),
            (b"(component)", "text"),
            (b"\0asm\x0d", "cut off"),
            (b"\0asm\x01\0\0\0", "core WebAssembly module"),
            (b"\0asm\x0d\0\x07\0", "not known"),
            (b"\0asm\x0d\0\x01\0", "must export"),
            (b"\0asm\x0d\0\x01\0\x07\xff", "damaged, cut off"),
        ] {
            let error = inspect(bytes).expect_err("none of these is a handler");
            assert!(error.contains(expect), "{error}");
        }
    }
}
