//! What workers that mean well say, and some that do not.

use serde_json::{Value, json};

use super::call::Asked;
use super::script::{Script, Step};

fn begin(asked: &[Asked], steps: Vec<Step>) -> Script {
    Script { asked: Asked::number(asked), manner: 0, steps }
}

fn say(said: Value, data: &[u8]) -> Step {
    Step::Say { json: said.to_string().into_bytes(), data: data.to_vec() }
}

fn of_run(what: &str, run: u64) -> Step {
    say(json!({ what: { "run": run } }), &[])
}

fn outputs(run: u64, values: Value, data: &[u8]) -> Step {
    say(json!({ "outputs": { "run": run, "load_us": 7, "outputs": values, "inline": true } }), data)
}

fn value(name: &str, element_type: &str, dimensions: &[u32]) -> Value {
    json!({ "name": name, "element_type": element_type, "dimensions": dimensions })
}

/// A sum, by a run of this number, through shared memory.
fn written(run: u64, length: u32) -> Vec<Step> {
    let values = json!([value("z", "f32", &[length])]);
    let announced = json!({ "outputs": { "run": run, "load_us": null, "outputs": values, "inline": false } });
    let bytes = vec![0x3f; length.min(8_000) as usize * 4];
    vec![say(announced, &[]), Step::Hear, Step::Write { at: 0, bytes }, of_run("written", run)]
}

fn sum(run: u64) -> Vec<Step> {
    vec![of_run("started", run), outputs(run, json!([value("z", "f32", &[1])]), &[0; 4])]
}

fn types() -> Step {
    let kinds = [("f16", 2), ("f32", 4), ("f64", 8), ("bf16", 2), ("u8", 1), ("i32", 4), ("i64", 8), ("bool", 1)];
    let mut values: Vec<_> = kinds.iter().map(|(kind, _)| value(&format!("{kind}_out"), kind, &[2])).collect();
    values.push(value("less", "bool", &[2]));
    let bytes: usize = kinds.iter().map(|(_, size)| size * 2).sum();
    outputs(1, json!(values), &vec![1; bytes + 2])
}

/// A decoder's step: logits of one position, and the state of three.
fn step(run: u64) -> Vec<Step> {
    let mut values = vec![value("logits", "f32", &[1, 1, 270])];
    for layer in 0..2 {
        for part in ["key", "value"] {
            values.push(value(&format!("present.{layer}.{part}"), "f32", &[1, 2, 3, 16]));
        }
    }
    vec![of_run("started", run), outputs(run, json!(values), &vec![0; 270 * 4 + 4 * 2 * 3 * 16 * 4])]
}

fn prompt(run: u64) -> Vec<Step> {
    vec![
        of_run("started", run),
        outputs(run, json!([value("tokens", "i32", &[3])]), &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]),
    ]
}

fn admitted(run: u64, cached: u32) -> Vec<Step> {
    vec![of_run("admitted", run), say(json!({ "prefill": { "run": run, "cached": cached } }), &[])]
}

fn piece(run: u64, choice: u32, end: u32, top: &[(u32, u32, f32)], finish: Option<&str>) -> Step {
    let logprob = if top.is_empty() { 0.0 } else { -0.5 };
    let token = json!({ "id": 7, "bytes": 1, "text_end": end, "logprob": logprob, "top": top });
    let piece = json!({ "choice": choice, "text": 1, "tokens": [token], "finish": finish });
    say(json!({ "piece": { "run": run, "piece": piece } }), &vec![b'x'; 2 + top.len()])
}

/// Two tokens, the second of which ends it.
fn one(run: u64) -> Vec<Step> {
    let mut steps = admitted(run, 0);
    steps.extend([piece(run, 0, 1, &[], None), piece(run, 0, 2, &[], Some("stop"))]);
    steps
}

fn two(run: u64) -> Vec<Step> {
    let top = [(7, 1, -0.5), (8, 1, -1.5)];
    let mut steps = admitted(run, 2);
    steps.extend((1..4).flat_map(|end| [piece(run, 0, end, &top, None), piece(run, 1, end, &top, None)]));
    steps.extend([piece(run, 0, 4, &top, Some("length")), Step::Hear, piece(run, 1, 4, &[], Some("stop"))]);
    steps
}

/// So long that it waits for its reader, then told to end.
fn long(manner: u8) -> Script {
    let mut steps = admitted(1, 0);
    steps.extend((1..=16).map(|end| piece(1, 0, end, &[], None)));
    steps.extend([Step::Hear, Step::Pause(20), Step::Hear, piece(1, 0, 17, &[], None), Step::Hear]);
    let end = json!({ "choice": 0, "text": 0, "tokens": [], "finish": "cancelled" });
    steps.push(say(json!({ "piece": { "run": 1, "piece": end } }), &[]));
    Script { manner, ..begin(&[Asked::One], steps) }
}

fn failed(asked: Asked, fault: Value) -> Script {
    begin(&[asked], vec![say(json!({ "failed": { "run": 1, "fault": fault } }), &[])])
}

/// A script that must be answered.
pub(super) fn good() -> Script {
    begin(&[Asked::Sum], sum(1))
}

pub(super) fn all() -> Vec<Vec<u8>> {
    let then = |parts: Vec<Vec<Step>>| parts.join(&Step::Hear);
    let mut scripts = vec![
        good(),
        begin(&[Asked::Sum], written(1, 5_000)),
        begin(&[Asked::Sum], written(1, 500_000)),
        begin(&[Asked::Large], [vec![of_run("taken", 1)], sum(1)].concat()),
        begin(&[Asked::Types], vec![types()]),
        begin(&[Asked::Step], step(1)),
        begin(&[Asked::Text], prompt(1)),
        begin(&[Asked::Chat], prompt(1)),
        begin(&[Asked::One], one(1)),
        begin(&[Asked::Two], two(1)),
        begin(&[Asked::Constrained], one(1)),
        begin(&[Asked::Whole], then(vec![prompt(1), one(2)])),
        begin(&[Asked::Sum, Asked::One], then(vec![Vec::new(), sum(1), one(2)])),
        begin(
            &[Asked::Large, Asked::Large, Asked::Sum],
            then(vec![vec![of_run("taken", 1)], vec![of_run("taken", 2)], written(2, 9_000), sum(3), sum(1)]),
        ),
        begin(&[Asked::Two, Asked::Step, Asked::Chat], then(vec![Vec::new(), Vec::new(), step(2), prompt(3), two(1)])),
        long(0),
        long(4 << 1),
        long(5 << 1),
        long(6 << 1),
        long(7 << 1),
        begin(&[Asked::Sum], vec![Step::Quiet]),
        Script { manner: 1, ..begin(&[Asked::One], [admitted(1, 0), vec![Step::Quiet]].concat()) },
        begin(
            &[Asked::Sum],
            vec![Step::Leave, Step::Hear, say(json!({ "failed": { "run": 1, "fault": "stopped" } }), &[])],
        ),
        begin(&[Asked::One], [vec![of_run("admitted", 1), Step::Leave, Step::Hear], one(1)].concat()),
        Script::from_the_start(0, [vec![Step::Hear, say(json!("ready"), &[]), Step::Hear], sum(1)].concat()),
        Script::from_the_start(0, vec![Step::Hear, say(json!({ "unusable": "no\u{7}" }), &[])]),
    ];
    let text = "in /srv/secret no";
    for fault in [
        json!("stopped"),
        json!({ "full": { "limit": 1 } }),
        json!("no_room"),
        json!({ "never_fits": { "needs": 5, "budget": 4 } }),
        json!({ "no_device": text }),
        json!({ "load": text }),
        json!({ "failed": text }),
        json!({ "too_large": text }),
    ] {
        scripts.push(failed(Asked::Sum, fault.clone()));
        scripts.push(failed(Asked::One, fault));
    }
    for fault in [
        json!({ "invalid": text }),
        json!({ "raised": text }),
        json!({ "failed": { "detail": text } }),
        json!({ "tokenizer": { "invalid": text } }),
        json!({ "out_of_fuel": { "limit": 1 } }),
        json!("no_template"),
    ] {
        scripts.push(failed(Asked::Chat, json!({ "prompt": fault })));
    }
    for fault in [
        json!({ "keyword": { "keyword": text, "at": "#/a", "reason": text } }),
        json!({ "too_large": text }),
        json!({ "unusable": text }),
        json!({ "vocabulary": text }),
        json!("not_a_decoder"),
        json!({ "busy": { "waiting": 2, "limit": 1 } }),
        json!({ "busy_compiling": { "limit": 1 } }),
        json!({ "never_fits": { "tokens": 2, "limit": 1 } }),
        json!("stalled"),
    ] {
        scripts.push(failed(Asked::Constrained, json!({ "generation": fault })));
    }
    scripts.iter().map(Script::write).collect()
}
