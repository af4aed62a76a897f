//! A process that a model has taken over in the middle of a generation, and what it could say.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mayfly_inference::{GenerationError, Inference, WorkerConfig, WorkerError};

use crate::reader::{Ask, prompt, question, whole};
use crate::scene::{ONE, Scene, TWO, is_there, pid, quick, until};
use crate::speech::{hear, say, tell};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("whatever_a_process_says_of_a_generation_only_its_tenant_hears", whatever_it_says),
        trial("a_process_that_does_not_let_go_is_ended", does_not_let_go),
        trial("a_process_that_makes_a_prompt_of_anything_is_not_believed", prompts_of_anything),
        trial("a_generation_that_is_as_it_should_be_is_believed", as_it_should_be),
    ]
}

const ADMITTED: &str = r#"{"admitted":{"run":1}}"#;
const PREFILL: &str = r#"{"prefill":{"run":1,"cached":0}}"#;

/// Each is refused before anything of it is charged, but for those that begin well.
const KINDS: &[&str] = &[
    "early",
    "unadmitted",
    "admitted-twice",
    "prefill-twice",
    "prefill-too-long",
    "prefill-not-shared",
    "prefill-negative",
    "unknown-choice",
    "unknown-token",
    "unknown-likeliest",
    "not-asked-likeliest",
    "logprob-null",
    "logprob-huge",
    "no-utf8",
    "short-data",
    "long-data",
    "negative-bytes",
    "huge-bytes",
    "text-of-nothing",
    "reach-backwards",
    "reach-far",
    "nothing",
    "end-of-nothing",
    "not-cancelled",
    "not-that-long",
    "unknown-end",
    "after-the-end",
    "far-ahead",
    "flood",
    "outputs",
    "written",
    "started",
    "failed-otherwise",
    "stopped-by-nobody",
    "unknown-run",
    "exit",
    "noise",
];

/// The process's side.
pub(crate) fn worker(kind: &str) {
    let piece = |choice: &str, text: &str, tokens: &str, finish: &str| {
        format!(
            r#"{{"piece":{{"run":1,"piece":{{"choice":{choice},"text":{text},"tokens":[{tokens}],"finish":{finish}}}}}}}"#
        )
    };
    let token = |id: &str, bytes: &str, end: &str, logprob: &str, top: &str| {
        format!(r#"{{"id":{id},"bytes":{bytes},"text_end":{end},"logprob":{logprob},"top":[{top}]}}"#)
    };
    // One letter, and its text.
    let letter = |end: usize| piece("0", "1", &token("7", "1", &end.to_string(), "0.0", ""), "null");
    hear();
    tell("\"ready\"", &[]);
    let order = hear();
    assert!(order.contains("\"run\":1"), "{order}");
    if kind.starts_with("prompt") {
        assert!(order.contains("\"prompt\""), "{order}");
        let outputs = |of: &str| format!(r#"{{"outputs":{{"run":1,"load_us":null,"outputs":[{of}],"inline":true}}}}"#);
        let value = |name: &str, kind: &str, dimensions: &str| {
            outputs(&format!(r#"{{"name":"{name}","element_type":"{kind}","dimensions":[{dimensions}]}}"#))
        };
        match kind {
            "prompt-of-floats" => tell(&value("tokens", "f32", "1"), &[0; 4]),
            "prompt-of-two-dimensions" => tell(&value("tokens", "i32", "1,1"), &[0; 4]),
            "prompt-too-long" => {
                let long = value("tokens", "i32", "9000000").replace("true", "false");
                tell(&long, &[]);
                let _ = hear();
                tell(r#"{"failed":{"run":1,"fault":"stopped"}}"#, &[]);
            }
            "prompt-other-name" => tell(&value("other", "i32", "1"), &[0; 4]),
            "prompt-fault-of-a-generation" => {
                tell(r#"{"failed":{"run":1,"fault":{"generation":"stalled"}}}"#, &[]);
            }
            "prompt-admitted" => tell(ADMITTED, &[]),
            other => panic!("{other}"),
        }
        std::thread::sleep(Duration::from_secs(600));
    }
    assert!(order.contains("\"generate\""), "{order}");
    let begin = || {
        tell(ADMITTED, &[]);
        tell(PREFILL, &[]);
    };
    match kind {
        "early" => {
            tell(ADMITTED, &[]);
            tell(&letter(1), b"xx");
        }
        "unadmitted" => {
            tell(PREFILL, &[]);
            tell(&letter(1), b"xx");
        }
        "admitted-twice" => {
            tell(ADMITTED, &[]);
            tell(ADMITTED, &[]);
        }
        "prefill-too-long" => {
            tell(ADMITTED, &[]);
            tell(&PREFILL.replace("\"cached\":0", "\"cached\":4294967295"), &[]);
        }
        "prefill-not-shared" => {
            tell(ADMITTED, &[]);
            tell(&PREFILL.replace("\"cached\":0", "\"cached\":1"), &[]);
        }
        "prefill-negative" => {
            tell(ADMITTED, &[]);
            tell(&PREFILL.replace("\"cached\":0", "\"cached\":-1"), &[]);
        }
        _ => begin(),
    }
    let one = |token: &str, data: &[u8]| tell(&piece("0", "0", token, "null"), data);
    match kind {
        "prefill-twice" => tell(PREFILL, &[]),
        "unknown-choice" => tell(&piece("1", "0", &token("7", "1", "1", "0.0", ""), "null"), b"x"),
        "unknown-token" => one(&token("2048", "1", "1", "0.0", ""), b"x"),
        "unknown-likeliest" => one(&token("7", "1", "1", "0.0", "[4000000000,1,-1.0]"), b"xx"),
        "not-asked-likeliest" => one(&token("7", "1", "1", "0.0", "[1,1,-1.0]"), b"xx"),
        "logprob-null" => one(&token("7", "1", "1", "null", ""), b"x"),
        "logprob-huge" => one(&token("7", "1", "1", "1e999", ""), b"x"),
        "no-utf8" => tell(&piece("0", "1", &token("7", "1", "1", "0.0", ""), "null"), &[0xff, b'x']),
        "short-data" => one(&token("7", "9", "1", "0.0", ""), b"x"),
        "long-data" => one(&token("7", "1", "1", "0.0", ""), &[b'x'; 500]),
        "negative-bytes" => one(&token("7", "-1", "1", "0.0", ""), b"x"),
        "huge-bytes" => one(&token("7", "4294967295", "1", "0.0", ""), b"x"),
        "text-of-nothing" => tell(&piece("0", "9", &token("7", "1", "1", "0.0", ""), "null"), b"more text!"),
        "reach-backwards" => {
            tell(&letter(1), b"xx");
            one(&token("7", "1", "0", "0.0", ""), b"x");
        }
        "reach-far" => one(&token("7", "1", "18446744073709551615", "0.0", ""), b"x"),
        "nothing" => tell(&piece("0", "0", "", "null"), &[]),
        "end-of-nothing" => tell(&piece("0", "0", "", "\"stop\""), &[]),
        "not-cancelled" => tell(&piece("0", "0", "", "\"cancelled\""), &[]),
        "not-that-long" => tell(&piece("0", "1", &token("7", "1", "1", "0.0", ""), "\"length\""), b"xx"),
        "unknown-end" => tell(&piece("0", "1", &token("7", "1", "1", "0.0", ""), "\"filtered\""), b"xx"),
        "after-the-end" => {
            tell(&piece("0", "1", &token("7", "1", "1", "0.0", ""), "\"stop\""), b"xx");
            tell(&letter(2), b"xx");
        }
        "far-ahead" => (1..=17).for_each(|end| tell(&letter(end), b"xx")),
        "flood" => loop {
            one(&token("7", "60000", "1", "0.0", ""), &vec![b'x'; 60_000]);
        },
        "outputs" => tell(r#"{"outputs":{"run":1,"load_us":null,"outputs":[],"inline":true}}"#, &[]),
        "written" => tell(r#"{"written":{"run":1}}"#, &[]),
        "started" => tell(r#"{"started":{"run":1}}"#, &[]),
        "failed-otherwise" => tell(r#"{"failed":{"run":1,"fault":{"full":{"limit":1}}}}"#, &[]),
        "stopped-by-nobody" => tell(r#"{"failed":{"run":1,"fault":"stopped"}}"#, &[]),
        "unknown-run" => tell(&letter(1).replace("\"run\":1", "\"run\":77"), b"xx"),
        "exit" => std::process::exit(3),
        "noise" => say(&[0xff; 100]),
        "fair" => {
            tell(&letter(1), b"xx");
            tell(&piece("0", "1", &token("7", "1", "2", "0.0", ""), "\"stop\""), b"yy");
        }
        "lingers" => tell(&letter(1), b"xx"),
        _ => {}
    }
    std::thread::sleep(Duration::from_secs(600));
}

fn program(scene: &Scene, kind: &str) -> std::path::PathBuf {
    scene.program(&format!("exec {} __liar {kind}", std::env::current_exe().unwrap().display()))
}

fn start(scene: &Scene, kind: &str) -> Inference {
    scene.start_with_child(WorkerConfig { pause_ms_min: 200, ..quick() }, program(scene, kind))
}

async fn whatever_it_says(scene: Scene) {
    let package = scene.chat_model();
    for kind in KINDS {
        let inference = start(&scene, kind);
        let ask = Ask::of(&package, ONE).with(|ask| ask.time = Duration::from_secs(3));
        let began = Instant::now();
        let ended = match ask.apart(&inference).await {
            Ok(mut generation) => {
                if *kind == "far-ahead" {
                    // What is read gives more credit.
                    until(kind, || inference.workers().crashes_total == 1).await;
                }
                loop {
                    match generation.next().await {
                        Ok(Some(_)) => {}
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            }
            Err(error) => Err(error),
        };
        match (*kind, &ended) {
            // It had ended well by then, for its reader.
            ("after-the-end", Ok(())) => {}
            (_, Err(GenerationError::Worker(WorkerError::Crashed { .. }))) => {}
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{kind}: {:?}", began.elapsed());
        until(kind, || inference.workers().crashes_total == 1 && inference.workers().workers.is_empty()).await;
        let charged = ask.settled().await;
        let most = match *kind {
            "reach-backwards" | "after-the-end" => 1,
            "far-ahead" => 16,
            // It is read while it comes.
            "flood" => 60,
            _ => 0,
        };
        assert!(charged.output <= most && charged.cached == 0, "{kind}: {charged:?}");
    }
}

async fn does_not_let_go(scene: Scene) {
    let package = scene.chat_model();
    // Whoever leaves, however: half a second later it is killed.
    for how in ["cancel", "drop", "end-choice", "deadline"] {
        let inference = start(&scene, "lingers");
        let time = if how == "deadline" { 1500 } else { 60_000 };
        let ask = Ask::of(&package, ONE).with(|ask| ask.time = Duration::from_millis(time));
        let mut generation = ask.apart(&inference).await.unwrap();
        let process = pid(&inference, ONE).unwrap();
        assert_eq!(generation.next().await.unwrap().unwrap().text, "x");
        let began = Instant::now();
        match how {
            "cancel" => generation.cancel(),
            "drop" => drop(generation),
            "end-choice" => generation.end_choice(0),
            _ => {
                let stopped = generation.next().await;
                assert!(matches!(stopped, Err(GenerationError::Stopped)), "{stopped:?}");
            }
        }
        until(how, || !is_there(process)).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{how}: {:?}", began.elapsed());
        until("that is told", || inference.workers().crashes_total == 1).await;
        assert_eq!(ask.settled().await.output, 1, "{how}");
    }
}

async fn prompts_of_anything(scene: Scene) {
    let package = scene.chat_model();
    for kind in [
        "prompt-of-floats",
        "prompt-of-two-dimensions",
        "prompt-too-long",
        "prompt-other-name",
        "prompt-fault-of-a-generation",
        "prompt-admitted",
    ] {
        let inference = start(&scene, kind);
        let failed = prompt(&inference, &package, ONE, &question("hello"), Duration::from_secs(3)).await;
        let failed = failed.unwrap_err().to_string();
        let expect = match kind {
            "prompt-of-floats" | "prompt-of-two-dimensions" => "its process made a prompt of no tokens",
            "prompt-too-long" => "the prompt is longer than",
            _ => "ended before it had answered",
        };
        assert!(failed.contains(expect), "{kind}: {failed}");
    }
}

async fn as_it_should_be(scene: Scene) {
    let inference = start(&scene, "fair");
    let package = scene.chat_model();
    let ask = Ask::of(&package, TWO);
    let (choices, usage) = whole(ask.apart(&inference).await.unwrap(), 1).await.unwrap();
    assert_eq!((choices[0].text.as_str(), usage.completion_tokens), ("xy", 2));
    let charged = ask.settled().await;
    assert_eq!((charged.fresh, charged.output), (u32::try_from(ask.prompt.len()).unwrap(), 2));
}
