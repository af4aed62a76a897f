//! Prepare as a whole, on the models of `tests/fixtures/models`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use mayfly_types::{Meter, ModelId};
use tempfile::TempDir;

use super::{Prepared, RunLimits, Seen};
use crate::package::tests::{fixture, stored};
use crate::{ElementType, InputError, Package, Tensor};

const LIMITS: RunLimits = RunLimits { output_bytes_max: 1 << 20, all_positions: false };

fn ids(rows: &[&[i64]]) -> Tensor {
    let dimensions = [u32::try_from(rows.len()).unwrap(), u32::try_from(rows[0].len()).unwrap()];
    let bytes: Vec<u8> = rows.concat().iter().flat_map(|id| id.to_le_bytes()).collect();
    Tensor::from_bytes(ElementType::I64, &dimensions, &bytes).unwrap()
}

fn f32s(dimensions: &[u32], value: f32) -> Tensor {
    let count: u32 = dimensions.iter().product();
    let bytes: Vec<u8> = (0..count).flat_map(|_| value.to_le_bytes()).collect();
    Tensor::from_bytes(ElementType::F32, dimensions, &bytes).unwrap()
}

fn prepare(package: &Package, inputs: &[(&str, Tensor)], limits: RunLimits) -> Result<Prepared, InputError> {
    let inputs = inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    package.prepare(ModelId::new(), inputs, limits)
}

fn refused(package: &Package, inputs: &[(&str, Tensor)]) -> String {
    prepare(package, inputs, LIMITS).expect_err("must be refused").to_string()
}

fn start(prepared: &Prepared) -> Vec<(Meter, u64)> {
    prepared.start_lines().iter().map(|line| (line.meter, line.quantity)).collect()
}

fn hold(prepared: &Prepared) -> Vec<(Meter, u64)> {
    prepared.hold_lines().iter().map(|line| (line.meter, line.quantity)).collect()
}

fn embedder() -> (Package, TempDir) {
    stored(&fixture("embedder"))
}

#[test]
fn an_encoder_is_charged_for_what_it_keeps() {
    let (package, _dest) = embedder();
    let tokens = |rows: &[&[i64]], mask: &[&[i64]]| {
        prepare(&package, &[("attention_mask", ids(mask)), ("input_ids", ids(rows))], LIMITS).map(|run| start(&run))
    };
    assert_eq!(
        tokens(&[&[2, 4, 3, 0], &[2, 4, 5, 3]], &[&[1, 1, 1, 0], &[1, 1, 1, 1]]).unwrap(),
        [(Meter::InputTokens, 7)]
    );
    // Masked, but not the padding token; and a hole of padding tokens in the middle.
    assert_eq!(tokens(&[&[2, 4, 3, 5]], &[&[0, 0, 0, 0]]).unwrap(), [(Meter::InputTokens, 4)]);
    assert_eq!(tokens(&[&[2, 0, 0, 3]], &[&[1, 0, 0, 1]]).unwrap(), [(Meter::InputTokens, 4)]);
    assert_eq!(
        tokens(&[&[2, 0, 0, 0, 0, 0, 0, 0, 0]], &[&[1, 0, 0, 0, 0, 0, 0, 0, 0]]).unwrap(),
        [(Meter::InputTokens, 3)]
    );
    let empty = tokens(&[&[2, 3], &[0, 0]], &[&[1, 1], &[0, 0]]).unwrap_err().to_string();
    assert!(empty.contains("row 1 has no tokens"), "{empty}");
}

#[test]
fn names_are_checked() {
    let (package, _dest) = embedder();
    let one = ids(&[&[2, 3]]);
    let both = [("input_ids", one.clone()), ("attention_mask", ids(&[&[1, 1]]))];
    prepare(&package, &both, LIMITS).unwrap();
    // One value under two names is nothing to worry about.
    let shared = ids(&[&[1, 1]]);
    prepare(&package, &[("input_ids", shared.clone()), ("attention_mask", shared)], LIMITS).unwrap();
    assert!(refused(&package, &both[..1]).contains("missing inputs: attention_mask"));
    assert!(refused(&package, &[]).contains("input_ids, attention_mask"));
    let twice = [both[0].clone(), both[0].clone(), both[1].clone()];
    assert!(refused(&package, &twice).contains("`input_ids` is given twice"));
    let unknown = [both[0].clone(), both[1].clone(), ("in\u{7}put", one)];
    assert!(refused(&package, &unknown).contains("no input `input`"));
}

#[test]
fn types_shapes_and_values_are_checked() {
    let (package, _dest) = embedder();
    let with = |tensor: Tensor, mask: Tensor| refused(&package, &[("input_ids", tensor), ("attention_mask", mask)]);
    let good = || ids(&[&[2, 3]]);
    assert!(with(f32s(&[1, 2], 1.0), good()).contains("is f32; the model takes i64"));
    assert!(
        with(Tensor::from_bytes(ElementType::I64, &[2], &[0; 16]).unwrap(), good())
            .contains("[batch_size, sequence_length]")
    );
    assert!(
        with(Tensor::from_bytes(ElementType::I64, &[0, 2], &[]).unwrap(), good()).contains("no dimension may be 0")
    );
    assert!(with(good(), ids(&[&[1, 1, 1]])).contains("`sequence_length` is 2 in another input"));
    assert!(with(ids(&[&[2, 8]]), ids(&[&[1, 1]])).contains("is 8 at row 0, position 1"));
    assert!(with(ids(&[&[2, 3], &[-1, 3]]), ids(&[&[1, 1], &[1, 1]])).contains("is -1 at row 1, position 0"));
    assert!(with(good(), ids(&[&[1, 2]])).contains("a mask holds only 0 and 1"));
    let long = vec![2; 13];
    assert!(with(ids(&[&long]), ids(&[&[1; 13]])).contains("13 positions are more than the model's 12"));
}

#[test]
fn outputs_are_predicted_before_anything_runs() {
    let (package, _dest) = embedder();
    let inputs = [("input_ids", ids(&[&[2, 3], &[2, 3]])), ("attention_mask", ids(&[&[1, 1], &[1, 1]]))];
    // [2, 2, 4] of f32.
    let limits = |output_bytes_max| RunLimits { output_bytes_max, all_positions: false };
    prepare(&package, &inputs, limits(64)).unwrap();
    let error = prepare(&package, &inputs, limits(63)).unwrap_err();
    assert!(matches!(&error, InputError::TooLarge(text) if text.contains("64 bytes")), "{error}");
}

fn decoder() -> (Package, TempDir) {
    stored(&fixture("decoder.onnx"))
}

fn decoder_inputs(rows: &[&[i64]], mask: &[&[i64]], past: &Tensor) -> [(&'static str, Tensor); 4] {
    [
        ("input_ids", ids(rows)),
        ("attention_mask", ids(mask)),
        ("past_key_values.0.key", past.clone()),
        ("past_key_values.0.value", past.clone()),
    ]
}

#[test]
fn a_decoder_is_charged_for_new_tokens_and_for_what_is_read() {
    let (package, _dest) = decoder();
    let none = f32s(&[2, 1, 0, 1], 0.0);
    let seen = Seen::default();
    let past = f32s(&[2, 1, 3, 1], 1.0).into_opaque(package.digest(), seen.clone());

    // Right-padded prompts: row 0 ends at its second token.
    let prompt = decoder_inputs(&[&[1, 2, 0], &[1, 2, 3]], &[&[1, 1, 0], &[1, 1, 1]], &none);
    let run = prepare(&package, &prompt, LIMITS).unwrap();
    assert_eq!(start(&run), [(Meter::InputTokens, 6)]);
    assert_eq!(hold(&run), [(Meter::InputTokens, 6), (Meter::OutputTokens, 2)]);
    let request = run.into_request();
    assert_eq!(request.outputs[0].keep, Some(vec![1, 2]));
    assert_eq!(request.outputs[0].on_read[0].quantity, 2);
    assert_eq!((request.outputs[1].opaque, &request.outputs[1].keep), (Some(package.digest()), &None));
    assert!(request.outputs[1].on_read.is_empty());

    // One step whose token nobody can have chosen from the run before: it is the guest's own.
    let step = decoder_inputs(&[&[4], &[4]], &[&[1, 1, 1, 1], &[1, 1, 1, 1]], &past);
    let run = prepare(&package, &step, LIMITS).unwrap();
    assert_eq!(start(&run), [(Meter::InputTokens, 2)]);
    assert_eq!(hold(&run), [(Meter::InputTokens, 2), (Meter::OutputTokens, 2)]);

    // One step: the token was charged as an output before.
    seen.mark();
    let run = prepare(&package, &step, LIMITS).unwrap();
    assert_eq!((start(&run), hold(&run)), (vec![], vec![(Meter::OutputTokens, 2)]));

    // One token without a past is a prompt; several behind a past are input.
    let one = decoder_inputs(&[&[4], &[4]], &[&[1], &[1]], &none);
    assert_eq!(start(&prepare(&package, &one, LIMITS).unwrap()), [(Meter::InputTokens, 2)]);
    let more = decoder_inputs(&[&[4, 5], &[4, 5]], &[&[1; 5], &[1; 5]], &past);
    assert_eq!(start(&prepare(&package, &more, LIMITS).unwrap()), [(Meter::InputTokens, 4)]);

    // Every position, where the revision asks for it.
    let run = prepare(&package, &prompt, RunLimits { all_positions: true, ..LIMITS }).unwrap();
    assert_eq!(hold(&run), [(Meter::InputTokens, 6), (Meter::OutputTokens, 6)]);
    assert_eq!(run.into_request().outputs[0].keep, None);
}

#[test]
fn a_past_of_several_runs_is_free_only_if_each_was_seen() {
    let (package, _dest) = decoder();
    let past = |seen: &Seen| f32s(&[1, 1, 3, 1], 1.0).into_opaque(package.digest(), seen.clone());
    let (one, other) = (Seen::default(), Seen::default());
    one.mark();
    let charged = || {
        let mut inputs = decoder_inputs(&[&[4]], &[&[1, 1, 1, 1]], &past(&one));
        inputs[3].1 = past(&other);
        start(&prepare(&package, &inputs, LIMITS).unwrap())
    };
    assert_eq!(charged(), [(Meter::InputTokens, 1)]);
    other.mark();
    assert_eq!(charged(), []);
}

#[test]
fn a_zeroed_mask_saves_a_decoder_nothing() {
    let (package, _dest) = decoder();
    let none = f32s(&[1, 1, 0, 1], 0.0);
    let run = prepare(&package, &decoder_inputs(&[&[1, 2, 3]], &[&[0, 0, 0]], &none), LIMITS).unwrap();
    assert_eq!(start(&run), [(Meter::InputTokens, 3)]);
    assert_eq!(run.into_request().outputs[0].keep, Some(vec![2]));
}

#[test]
fn attention_state_cannot_be_made_up_or_taken_elsewhere() {
    let (package, _dest) = decoder();
    let (other, _other_dest) = embedder();
    let with = |past: &Tensor| refused(&package, &decoder_inputs(&[&[4]], &[&[1, 1]], past));
    let forged = f32s(&[1, 1, 1, 1], 0.0);
    assert!(with(&forged).contains("must be an output of this model handed back"));
    assert!(with(&forged.clone().into_opaque(other.digest(), Seen::default())).contains("of another model"));
    let own = forged.into_opaque(package.digest(), Seen::default());
    prepare(&package, &decoder_inputs(&[&[4]], &[&[1, 1]], &own), LIMITS).unwrap();
    assert!(refused(&package, &decoder_inputs(&[&[4]], &[&[1]], &own)).contains("does not add up"));
    // Nor can it be read through another graph.
    let (rows, _rows_dest) = stored(&fixture("rows.onnx"));
    let state = f32s(&[1, 4], 0.0).into_opaque(package.digest(), Seen::default());
    assert!(refused(&rows, &[("x", state)]).contains("cannot be attention state"));
}

#[test]
fn rows_and_elements() {
    let (rows, _dest) = stored(&fixture("rows.onnx"));
    assert_eq!(start(&prepare(&rows, &[("x", f32s(&[3, 4], 0.5))], LIMITS).unwrap()), [(Meter::Rows, 3)]);
    assert!(refused(&rows, &[("x", f32s(&[3, 5], 0.5))]).contains("[n, 4]"));

    let (stateful, _dest) = stored(&fixture("stateful.onnx"));
    let inputs = [("input", f32s(&[2, 2], 1.0)), ("state", f32s(&[2, 2], 1.0))];
    let run = prepare(&stateful, &inputs, LIMITS).unwrap();
    assert_eq!(start(&run), [(Meter::Rows, 2)]);
    assert!(run.into_request().outputs.iter().all(|output| output.opaque.is_none() && output.keep.is_none()));

    let (open, _dest) = stored(&fixture("function.onnx"));
    assert_eq!(start(&prepare(&open, &[("x", f32s(&[5], 1.0))], LIMITS).unwrap()), [(Meter::Rows, 5)]);
    let (open, _dest) = stored(&fixture("types.onnx"));
    let all: Vec<_> = open
        .info()
        .inputs
        .iter()
        .map(|input| {
            // Booleans travel as bytes.
            let element_type =
                if input.element_type == ElementType::Bool { ElementType::U8 } else { input.element_type };
            let bytes = vec![0; 300 * element_type.size()];
            (input.name.as_str(), Tensor::from_bytes(element_type, &[3, 100], &bytes).unwrap())
        })
        .collect();
    assert_eq!(start(&prepare(&open, &all, LIMITS).unwrap()), [(Meter::Elements, 3)]);
    let mut wrong = all.clone();
    wrong[7].1 = Tensor::from_bytes(ElementType::U8, &[3, 100], &[2; 300]).unwrap();
    assert!(refused(&open, &wrong).contains("`bool`"));
}

mod tokenizer {
    use super::embedder;
    use crate::package::tests::{fixture, stored};
    use crate::{EncodeOptions, TokenizerError};

    fn text(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    const PLAIN: EncodeOptions = EncodeOptions { special_tokens: true, max_tokens: None };

    #[test]
    fn the_files_padding_and_truncation_do_not_leak() {
        let (package, _dest) = embedder();
        let encodings = package.encode(&text(&["hello world may fly", "hello"]), PLAIN).unwrap();
        assert_eq!(encodings[0].ids, [2, 4, 5, 6, 7, 3]);
        assert_eq!(encodings[1].ids, [2, 4, 3]);
        assert_eq!(encodings[1].token_types, [0, 0, 0]);
        assert!(!encodings[0].truncated);
        assert_eq!(package.count(&text(&["hello world may fly", ""])).unwrap(), [6, 2]);
    }

    #[test]
    fn a_cut_keeps_the_special_tokens() {
        let (package, _dest) = embedder();
        let cut =
            |most| package.encode(&text(&["hello world may fly"]), EncodeOptions { max_tokens: Some(most), ..PLAIN });
        let encoding = &cut(4).unwrap()[0];
        assert_eq!((encoding.ids.as_slice(), encoding.truncated), (&[2, 4, 5, 3][..], true));
        assert_eq!(cut(2).unwrap()[0].ids, [2, 3]);
        assert!(matches!(cut(1), Err(TokenizerError::Invalid(text)) if text.contains("at least 2")));
        // The package's own limit is 12.
        let long = "fly ".repeat(50);
        let encoding = &package.encode(&[long], PLAIN).unwrap()[0];
        assert_eq!((encoding.ids.len(), encoding.ids[11], encoding.truncated), (12, 3, true));
        let bare = EncodeOptions { special_tokens: false, max_tokens: Some(2) };
        assert_eq!(package.encode(&text(&["may fly may"]), bare).unwrap()[0].ids, [6, 7]);
    }

    #[test]
    fn decode_and_its_refusals() {
        let (package, _dest) = embedder();
        assert_eq!(package.decode(&[2, 4, 5, 3], true).unwrap(), "hello world");
        assert!(package.decode(&[2, 4, 5, 3], false).unwrap().contains("[CLS]"));
        assert!(matches!(package.decode(&[99], true), Err(TokenizerError::Invalid(text)) if text.contains("99")));
    }

    #[test]
    fn a_call_is_bounded() {
        let (package, _dest) = embedder();
        let many = vec![String::new(); 1025];
        assert!(matches!(package.count(&many), Err(TokenizerError::Invalid(text)) if text.contains("1024")));
        let much = vec!["a".repeat(4 << 20), "a".to_owned()];
        assert!(matches!(package.encode(&much, PLAIN), Err(TokenizerError::Invalid(_))));
        let (none, _dest) = stored(&fixture("rows.onnx"));
        assert!(matches!(none.count(&text(&["a"])), Err(TokenizerError::None)));
    }

    #[test]
    fn a_damaged_tokenizer_is_said_once_and_for_all() {
        let source = tempfile::TempDir::new().unwrap();
        std::fs::copy(fixture("encoder.onnx"), source.path().join("model.onnx")).unwrap();
        std::fs::write(source.path().join("tokenizer.json"), r#"{"model": {"type": "WordLevel"}}"#).unwrap();
        let (package, _dest) = stored(source.path());
        assert!(package.check_tokenizer().unwrap_err().contains("`tokenizer.json` cannot be loaded"));
        assert!(matches!(package.count(&text(&["a"])), Err(TokenizerError::Failed { .. })));
    }
}
