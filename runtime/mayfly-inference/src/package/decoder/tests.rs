//! What an import makes of decoder folders in both layouts, and of graphs that generation cannot drive.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::resolve::{Graph, resolve};
use super::settings::Settings;
use super::*;
use crate::package::tests::{fixture, folder, property, refusal, stored};
use crate::package::wiring::{Cached, Wiring};
use crate::package::{DimensionInfo, ImportPolicy, Role, TensorInfo};

#[test]
fn a_genai_folder() {
    let (package, _dest) = stored(&fixture("decoder_genai"));
    assert!(package.graph_path().ends_with("decoder.onnx"));
    let decoder = package.info().decoder.as_ref().unwrap();
    let pair = |stem: &str, layer: u32| (format!("{stem}.{layer}.key"), format!("{stem}.{layer}.value"));
    let expect = DecoderInfo {
        layout: DecoderLayout::GroupQuery,
        layers: 2,
        kv_heads: 2,
        head_size: 16,
        kv_type: ElementType::F32,
        context: 128,
        vocab: 270,
        inputs: DecoderInputs { ids: "input_ids".into(), mask: Some("attention_mask".into()), positions: None },
        past: vec![pair("past_key_values", 0), pair("past_key_values", 1)],
        present: vec![pair("present", 0), pair("present", 1)],
        logits: "logits".into(),
        last_position_only: false,
        eos: vec![262, 264],
        bos: Some(262),
        batching: Batching::Continuous,
        defaults: GenerationDefaults {
            temperature: Some(0.7),
            top_p: Some(0.8),
            top_k: Some(20),
            repetition_penalty: Some(1.1),
        },
    };
    assert_eq!(*decoder, expect);
    assert_eq!((package.info().vocab_size, package.info().max_tokens), (Some(270), Some(128)));
    assert_eq!(property(&package, "generation"), Some("continuous"));
    assert_eq!(property(&package, "max_tokens"), Some("128"));
}

#[test]
fn an_optimum_folder() {
    let (package, _dest) = stored(&fixture("decoder_optimum"));
    let decoder = package.info().decoder.as_ref().unwrap();
    assert_eq!((decoder.layout, decoder.batching), (DecoderLayout::Concatenated, Batching::OneAtATime));
    assert_eq!(decoder.inputs.positions.as_deref(), Some("position_ids"));
    assert_eq!((decoder.kv_heads, decoder.head_size, decoder.context, decoder.vocab), (2, 16, 128, 270));
    assert_eq!((&decoder.eos[..], decoder.bos), (&[262, 264][..], Some(262)));
    assert_eq!(decoder.defaults, GenerationDefaults { temperature: Some(0.7), top_p: Some(0.8), ..Default::default() });
    assert_eq!(property(&package, "generation"), Some("one-at-a-time"));
}

#[test]
fn an_onnx_community_folder_may_have_one_model_of_any_name() {
    let files = [("onnx/model_q4.onnx", "decoder_optimum/model.onnx"), ("config.json", "decoder_optimum/config.json")];
    let source = folder(&files);
    let (package, _dest) = stored(source.path());
    assert!(package.graph_path().ends_with("onnx/model_q4.onnx"));
    assert!(package.info().decoder.is_some());
    fs::copy(fixture("decoder.onnx"), source.path().join("onnx/model_int8.onnx")).unwrap();
    assert!(refusal(source.path(), &ImportPolicy::default()).contains("keep the one to import"));
}

#[test]
fn other_models_stay_as_they_were() {
    for name in ["rows.onnx", "embedder", "stateful.onnx"] {
        let (package, dest) = stored(&fixture(name));
        assert_eq!((&package.info().decoder, property(&package, "generation")), (&None, None), "{name}");
        let description = fs::read_to_string(dest.path().join(package.digest().hex()).join("package.json")).unwrap();
        assert!(!description.contains("decoder"), "{name}");
    }
}

#[test]
fn a_decoder_without_its_configuration_says_what_is_missing() {
    let (package, _dest) = stored(&fixture("decoder.onnx"));
    assert_eq!(package.info().decoder, None);
    assert!(property(&package, "generation").unwrap().contains("say `max_tokens` in model.toml"));
    let source = folder(&[("model.onnx", "decoder.onnx")]);
    fs::write(source.path().join("model.toml"), "max_tokens = 32").unwrap();
    let (package, _dest) = stored(source.path());
    assert_eq!(package.info().decoder.as_ref().unwrap().context, 32);
}

#[test]
fn a_bad_genai_folder_is_refused() {
    let source = folder(&[("model.onnx", "decoder_genai/decoder.onnx")]);
    let check = |config: &str, why: &str| {
        fs::write(source.path().join("genai_config.json"), config).unwrap();
        let said = refusal(source.path(), &ImportPolicy::default());
        assert!(said.contains(why), "{said}");
    };
    check("{", "is not JSON");
    check(r#"{"model": {"decoder": {"filename": "../../etc/passwd"}}}"#, "no path inside the folder");
    check(r#"{"model": {"decoder": {"filename": "other.onnx"}}}"#, "`other.onnx`, which is missing");
    check(&" ".repeat((1 << 20) + 1), "larger than");
    // Without a name it is a folder like any other.
    fs::write(source.path().join("genai_config.json"), r#"{"model": {"context_length": 64}}"#).unwrap();
    let (package, _dest) = stored(source.path());
    assert_eq!(package.info().decoder.as_ref().map(|decoder| decoder.context), Some(64));
}

#[test]
fn a_merged_decoder_is_refused() {
    for place in ["decoder_model_merged.onnx", "onnx/decoder_model_merged.onnx"] {
        let source = folder(&[(place, "decoder.onnx")]);
        assert!(refusal(source.path(), &ImportPolicy::default()).contains("use_cache_branch"), "{place}");
    }
}

/// A graph of one layer with GroupQueryAttention, as `change` leaves it.
fn outcome(
    change: impl FnOnce(&mut Vec<TensorInfo>, &mut Vec<TensorInfo>, &mut Wiring),
) -> Result<DecoderInfo, String> {
    use DimensionInfo::{Any, Fixed};
    let tensor = |name: &str, element_type, dimensions: &[DimensionInfo], role| TensorInfo {
        name: name.to_owned(),
        element_type,
        dimensions: dimensions.to_vec(),
        role,
    };
    let kv = [Any, Fixed(2), Any, Fixed(16)];
    let mut inputs = vec![
        tensor("ids", ElementType::I64, &[Any, Any], Role::Ids),
        tensor("mask", ElementType::I64, &[Any, Any], Role::Mask),
        tensor("past.0.key", ElementType::F32, &kv, Role::Past),
        tensor("past.0.value", ElementType::F32, &kv, Role::Past),
    ];
    let mut outputs = vec![
        tensor("logits", ElementType::F32, &[Any, Any, Fixed(64)], Role::Logits),
        tensor("present.0.key", ElementType::F32, &kv, Role::Present),
        tensor("present.0.value", ElementType::F32, &kv, Role::Present),
    ];
    let pair = |stem: &str| (format!("{stem}.0.key"), format!("{stem}.0.value"));
    let mut wiring = Wiring {
        attention: BTreeSet::from([Cached { past: pair("past"), present: pair("present") }]),
        readers: BTreeMap::from([("mask".to_owned(), BTreeSet::from(["ReduceSum".to_owned(), "Shape".to_owned()]))]),
        branches: false,
    };
    change(&mut inputs, &mut outputs, &mut wiring);
    let graph = Graph {
        inputs: &inputs,
        outputs: &outputs,
        unshaped: &[],
        wiring: &wiring,
        embeddings: None,
        context: Some(100),
        vocab: None,
    };
    resolve(graph, &Settings::default()).map(Option::unwrap)
}

#[test]
fn what_may_share_a_run() {
    let batching =
        |change: fn(&mut Vec<TensorInfo>, &mut Vec<TensorInfo>, &mut Wiring)| outcome(change).unwrap().batching;
    assert_eq!(batching(|_, _, _| {}), Batching::Continuous);
    assert_eq!(batching(|_, _, wiring| wiring.branches = true), Batching::OneAtATime);
    assert_eq!(batching(|_, _, wiring| wiring.attention.clear()), Batching::OneAtATime);
    assert_eq!(
        batching(|_, _, wiring| wiring.readers.get_mut("mask").unwrap().extend(["Unsqueeze".to_owned()])),
        Batching::OneAtATime
    );
    assert_eq!(batching(|inputs, _, _| inputs[0].dimensions[0] = DimensionInfo::Fixed(1)), Batching::OneAtATime);
    let halves = |inputs: &mut Vec<TensorInfo>, outputs: &mut Vec<TensorInfo>, _: &mut Wiring| {
        inputs[2..].iter_mut().chain(&mut outputs[1..]).for_each(|tensor| tensor.element_type = ElementType::F16);
    };
    assert_eq!(batching(halves), Batching::ContinuousOnGpu);
}

#[test]
fn the_last_position_only() {
    let decoder = outcome(|_, outputs, _| outputs[0].dimensions[1] = DimensionInfo::Fixed(1)).unwrap();
    assert!(decoder.last_position_only);
}

#[test]
fn what_generation_cannot_drive_says_why() {
    type Change = fn(&mut Vec<TensorInfo>, &mut Vec<TensorInfo>, &mut Wiring);
    let cases: [(Change, &str); 12] = [
        (|inputs, _, _| inputs[0].element_type = ElementType::I32, "`ids` is not i64"),
        (|inputs, _, _| inputs[0].dimensions[1] = DimensionInfo::Fixed(1), "`ids` has a fixed length"),
        (|inputs, _, _| inputs[0].role = Role::Data, "does not know its input `ids`"),
        (|inputs, _, _| drop(inputs.remove(1)), "no attention mask"),
        (|inputs, _, _| drop(inputs.remove(3)), "layer 0 has no pair"),
        (|_, outputs, _| drop(outputs.remove(1)), "layer 0 has no pair"),
        (|inputs, _, _| inputs[2].dimensions[2] = DimensionInfo::Fixed(100), "`past.0.key` has a fixed length"),
        (|inputs, _, _| inputs[3].dimensions[1] = DimensionInfo::Fixed(4), "another shape"),
        (|inputs, _, _| inputs[2].dimensions[3] = DimensionInfo::Any, "heads and their size"),
        (|_, outputs, _| outputs[0].dimensions[2] = DimensionInfo::Any, "`vocab_size` in model.toml"),
        (|_, outputs, _| outputs[0].role = Role::Data, "one output of logits"),
        (
            |_, _, wiring| {
                let crossed = ("past.0.value".to_owned(), "past.0.key".to_owned());
                wiring.attention = BTreeSet::from([Cached { past: crossed.clone(), present: crossed }]);
            },
            "GroupQueryAttention and others do not",
        ),
    ];
    for (change, why) in cases {
        let said = outcome(change).expect_err(why);
        assert!(said.contains(why), "{why}: {said}");
    }
    let merged = outcome(|inputs, _, _| {
        let switch = TensorInfo { name: "use_cache_branch".into(), role: Role::Data, ..inputs[0].clone() };
        inputs.push(switch);
    });
    assert!(merged.unwrap_err().contains("text-generation-with-past"));
}
