//! Generations in a tenant's process: the same text, charged alike, and ended by whoever may.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mayfly_inference::{
    Config, Constraint, Finish, GenerationError, GenerationOptions, LoadError, Prompt, PromptError, RunError, Sampling,
    WorkerConfig, WorkerError,
};

use crate::reader::{Ask, greedy, prompt, question, whole};
use crate::scene::{ONE, Run, Scene, TWO, kill, pid, quick, until};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_generation_gives_what_it_gives_in_the_servers_process", gives_what_it_gives_here),
        trial("a_prompt_has_the_tokens_it_has_in_the_servers_process", a_prompt_has_the_tokens_it_has_here),
        trial("a_prompt_that_cannot_be_made_says_why", a_prompt_that_cannot_be_made_says_why),
        trial("constraints_that_cannot_be_are_said", constraints_that_cannot_be_are_said),
        trial("prefixes_are_reused_within_their_scope", prefixes_are_reused_within_their_scope),
        trial("it_runs_sixteen_tokens_ahead_at_most", it_runs_sixteen_tokens_ahead_at_most),
        trial("a_reader_ends_what_it_does_not_want", a_reader_ends_what_it_does_not_want),
        trial("a_caller_who_leaves_ends_it", a_caller_who_leaves_ends_it),
        trial("a_generation_is_stopped_at_its_deadline", a_generation_is_stopped_at_its_deadline),
        trial("a_process_that_dies_in_mid_stream_is_its_tenants_trouble", dies_in_mid_stream),
        trial("a_template_that_grows_takes_its_own_process_down", a_template_that_grows),
        trial("no_more_generations_at_once_than_may", no_more_generations_at_once_than_may),
        trial("a_reader_that_takes_nothing_is_cut", a_reader_that_takes_nothing_is_cut),
        trial("a_model_too_large_for_its_process_is_said_to_be", a_model_too_large_for_its_process),
        trial("what_a_process_has_at_work_is_counted", what_it_has_at_work_is_counted),
        trial("slots_are_as_many_as_a_process_has_memory_for", slots_are_as_many_as_there_is_memory_for),
    ]
}

async fn gives_what_it_gives_here(scene: Scene) {
    let inference = scene.start(quick());
    for layout in ["tiny-chat-genai", "tiny-chat-optimum"] {
        let package = scene.package_of(&format!("examples/models/{layout}"), |_| {});
        let plain = || Ask::of(&package, ONE);
        let drawn = Sampling { temperature: 1.5, seed: Some(7), ..Sampling::default() };
        let strict = Sampling { top_p: 0.9, top_k: 50, min_p: 0.01, repetition_penalty: 1.2, ..drawn.clone() };
        let biased = Sampling { logit_bias: vec![(300, 4.5), (12, -100.0)], frequency_penalty: 0.5, ..drawn.clone() };
        let constraint = |constraint| GenerationOptions { constraint: Some(constraint), ..greedy() };
        let schema = r#"{"type":"object","properties":{"name":{"enum":["é/a","b"]}},"required":["name"],"additionalProperties":false}"#;
        let asks = [
            plain(),
            plain().with(|ask| ask.options.max_tokens = 3),
            plain().with(|ask| ask.options.stop = vec!["sand".to_owned(), "box".to_owned()]),
            plain().with(|ask| ask.options.logprobs = Some(20)),
            plain().with(|ask| (ask.options.logprobs, ask.options.ignore_eos) = (Some(0), true)),
            plain().with(|ask| (ask.options.sampling, ask.choices) = (drawn.clone(), 3)),
            plain().with(|ask| (ask.options.sampling, ask.choices) = (strict, 2)),
            plain().with(|ask| (ask.options.sampling, ask.options.logprobs) = (biased, Some(3))),
            plain().with(|ask| ask.options = constraint(Constraint::Choice(vec!["yes".into(), "no".into()]))),
            plain().with(|ask| ask.options = constraint(Constraint::Regex("[0-9]{3}-[a-z]+x".into()))),
            plain().with(|ask| ask.options = constraint(Constraint::JsonSchema(schema.to_owned()))),
        ];
        for ask in asks {
            let here = ask.clone().with(|_| {});
            let expect = whole(here.here(&inference).await.unwrap(), ask.choices).await.unwrap();
            let given = whole(ask.apart(&inference).await.unwrap(), ask.choices).await.unwrap();
            assert_eq!(given, expect, "{layout} {:?}", ask.options);
            let (charged, by) = (ask.settled().await, here.settled().await);
            assert_eq!((charged.fresh, charged.output), (by.fresh, by.output), "{:?}", ask.options);
            assert!(charged.ran > Duration::ZERO);
        }
    }
    assert_eq!(inference.workers().crashes_total, 0);
}

async fn what_it_has_at_work_is_counted(scene: Scene) {
    let inference = scene.start(quick());
    let (chat, add) = (scene.chat_model(), scene.package("add"));
    let load = |owner| {
        let all = inference.workers().workers;
        all.into_iter().find(|worker| worker.owner == owner).map(|worker| worker.load).unwrap_or_default()
    };
    // One that nobody reads: it keeps its slot.
    let ask = Ask::long(&chat, ONE);
    let generation = ask.apart(&inference).await.unwrap();
    Run::of(&inference, TWO, &add).go(crate::scene::add(1.0, 2.0)).await.unwrap();
    until("it is at work", || load(ONE).sequences == 1).await;
    let at_work = load(ONE);
    assert_eq!((at_work.models, at_work.waiting), (1, 0), "{at_work:?}");
    assert!(at_work.slots >= 2 && at_work.kv_tokens > 0 && at_work.kv_tokens < at_work.kv_tokens_max, "{at_work:?}");
    assert!(at_work.state_bytes > 0, "{at_work:?}");
    let of = |owner, package: &Arc<mayfly_inference::Package>| {
        inference.bytes_apart(owner, package.digest(), mayfly_inference::Device::Cpu)
    };
    assert_eq!(of(ONE, &chat), at_work.model_bytes);
    assert_eq!((of(TWO, &chat), of(ONE, &add)), (0, 0), "of its own process only");
    until("who has nothing to do has told of what is loaded", || load(TWO).models == 1).await;
    assert_eq!((load(TWO).sequences, load(TWO).slots), (0, 0));
    drop(generation);
    until("it is over", || load(ONE).sequences == 0).await;
    assert_eq!(load(ONE).slots, at_work.slots);
    assert_eq!(inference.workers().crashes_total, 0);
}

async fn a_prompt_has_the_tokens_it_has_here(scene: Scene) {
    let inference = scene.start(WorkerConfig { shared_bytes_max: 4 << 20, ..quick() });
    let package = scene.chat_model();
    for asked in [
        question("Where does a handler run?"),
        question("text that looks like <|im_start|>system is text"),
        // Through the shared memory, both ways.
        question(&"many words, ".repeat(20_000)),
        Prompt::Text("plain ü text".to_owned()),
        Prompt::Text(String::new()),
    ] {
        let given = prompt(&inference, &package, ONE, &asked, Duration::from_secs(60)).await.unwrap();
        assert_eq!(given, package.prompt(&asked).unwrap());
    }
    assert!(!inference.is_loaded_apart(ONE, package.digest(), mayfly_inference::Device::Cpu), "no model was needed");
}

async fn a_prompt_that_cannot_be_made_says_why(scene: Scene) {
    let inference = scene.start(quick());
    let raises = scene.package_of("examples/models/tiny-chat-genai", |folder| {
        let template = "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}\
                        {% for m in messages %}{{ m.content }}{% endfor %}\
                        {% if messages[0].content == 'long' %}{% for i in range(100000) %}{{ messages[0].content * 1000 }}{% endfor %}{% endif %}";
        fs::write(folder.join("chat_template.jinja"), template).unwrap();
    });
    let of = async |text: &str| {
        let failed = prompt(&inference, &raises, ONE, &question(text), Duration::from_secs(60)).await;
        failed.map_err(|error| error.to_string())
    };
    assert_eq!(of("no").await.unwrap_err(), "the model's chat template refuses these messages: not that");
    assert_eq!(of("long").await, raises.prompt(&question("long")).map_err(|error| error.to_string()));
    assert!(of("long").await.is_err());
    assert!(of("yes").await.is_ok());
    assert_eq!(inference.workers().crashes_total, 0);
}

async fn constraints_that_cannot_be_are_said(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.chat_model();
    for constraint in [
        Constraint::JsonSchema(r#"{"type":"object","if":{}}"#.to_owned()),
        Constraint::JsonSchema("{".to_owned()),
        Constraint::Regex("(".to_owned()),
        Constraint::Grammar("start: missing".to_owned()),
        Constraint::Choice(Vec::new()),
        Constraint::Regex("a".repeat(70_000)),
    ] {
        let ask = Ask::of(&package, ONE).with(|ask| ask.options.constraint = Some(constraint.clone()));
        let expect = ask.here(&inference).await.unwrap_err();
        let given = ask.apart(&inference).await.unwrap_err();
        assert!(matches!(given, GenerationError::Option(_)), "{constraint:?}: {given:?}");
        assert_eq!(given.to_string(), expect.to_string());
        let charged = ask.settled().await;
        assert_eq!((charged.fresh, charged.output), (0, 0));
    }
    assert_eq!(inference.workers().crashes_total, 0);
}

async fn prefixes_are_reused_within_their_scope(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.chat_model();
    let cached = async |scope: Option<[u8; 32]>| {
        let ask = Ask::of(&package, ONE).with(|ask| ask.reuse = scope);
        let (_, usage) = whole(ask.apart(&inference).await.unwrap(), 1).await.unwrap();
        let charged = ask.settled().await;
        assert_eq!(u64::from(charged.cached), usage.cached_tokens);
        assert_eq!(u64::from(charged.fresh) + usage.cached_tokens, usage.prompt_tokens);
        usage.cached_tokens
    };
    assert_eq!(cached(Some([1; 32])).await, 0);
    assert!(cached(Some([1; 32])).await > 0);
    assert_eq!(cached(Some([2; 32])).await, 0);
    assert_eq!(cached(None).await, 0);
}

async fn it_runs_sixteen_tokens_ahead_at_most(scene: Scene) {
    let inference = scene.start(quick());
    let ask = Ask::long(&scene.chat_model(), ONE);
    let mut generation = ask.apart(&inference).await.unwrap();
    until("it is ahead", || ask.account.charged().output == 16).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ask.account.charged().output, 16);
    let ran = ask.account.charged().ran;
    let first = generation.next().await.unwrap().unwrap();
    assert_eq!(first.tokens.len(), 16);
    until("it goes on", || ask.account.charged().output == 32).await;
    // All the while it waited for its reader nothing ran.
    let more = ask.account.charged().ran.saturating_sub(ran);
    assert!(more < Duration::from_millis(300), "{more:?}");
    drop(generation);
    assert!(ask.settled().await.output <= 33);
}

async fn a_reader_ends_what_it_does_not_want(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.chat_model();
    let ask = Ask::long(&package, ONE).with(|ask| (ask.choices, ask.options.max_tokens) = (2, 200));
    let mut generation = ask.apart(&inference).await.unwrap();
    let mut finishes = [None; 2];
    while let Some(chunk) = generation.next().await.unwrap() {
        if chunk.choice == 0 && !chunk.tokens.is_empty() {
            generation.end_choice(0);
        }
        if chunk.finish.is_some() {
            finishes[chunk.choice as usize] = chunk.finish;
        }
    }
    assert_eq!(finishes, [Some(Finish::Cancelled), Some(Finish::Length)]);
    let charged = ask.settled().await;
    assert!((201..260).contains(&charged.output), "{charged:?}");

    let ask = Ask::long(&package, ONE);
    let mut generation = ask.apart(&inference).await.unwrap();
    generation.next().await.unwrap().unwrap();
    generation.cancel();
    let mut last = None;
    while let Some(chunk) = generation.next().await.unwrap() {
        last = chunk.finish;
    }
    assert_eq!(last, Some(Finish::Cancelled));
    assert!(ask.settled().await.output < 100);
    assert_eq!(inference.workers().crashes_total, 0);
}

async fn a_caller_who_leaves_ends_it(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.chat_model();
    let ask = Ask::long(&package, ONE);
    let mut generation = ask.apart(&inference).await.unwrap();
    generation.next().await.unwrap().unwrap();
    ask.cancel.cancel();
    let stopped = loop {
        match generation.next().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(stopped, Err(GenerationError::Stopped)), "{stopped:?}");
    ask.settled().await;
    drop(generation);
    // One that never begins: its caller is gone while it waits.
    let ask = Ask::long(&package, ONE);
    let starting = ask.apart(&inference);
    drop(starting);
    ask.settled().await;
    let worker = |inference: &mayfly_inference::Inference| inference.workers().workers[0].clone();
    until("nothing is open", || worker(&inference).runs_open == 0).await;
    assert_eq!(inference.workers().crashes_total, 0);
    assert!(worker(&inference).idle.is_some());
}

async fn a_generation_is_stopped_at_its_deadline(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.chat_model();
    whole(Ask::of(&package, ONE).apart(&inference).await.unwrap(), 1).await.unwrap();
    let process = pid(&inference, ONE);
    let ask = Ask::long(&package, ONE).with(|ask| ask.time = Duration::from_millis(300));
    let began = Instant::now();
    let mut generation = ask.apart(&inference).await.unwrap();
    // Nobody reads: it waits for its reader until then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopped = loop {
        match generation.next().await {
            Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other,
        }
    };
    assert!(matches!(stopped, Err(GenerationError::Stopped)), "{stopped:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    ask.settled().await;
    assert_eq!((pid(&inference, ONE), inference.workers().crashes_total), (process, 0), "the same process");
}

async fn dies_in_mid_stream(scene: Scene) {
    let inference = scene.start(quick());
    let package = scene.chat_model();
    let (ours, theirs) = (Ask::long(&package, ONE), Ask::long(&package, TWO));
    let mut our_text = ours.apart(&inference).await.unwrap();
    let mut their_text = theirs.apart(&inference).await.unwrap();
    our_text.next().await.unwrap().unwrap();
    their_text.next().await.unwrap().unwrap();
    kill(pid(&inference, ONE).unwrap());
    let lost = loop {
        match our_text.next().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(lost, Err(GenerationError::Worker(WorkerError::Crashed { .. }))), "{lost:?}");
    let charged = ours.settled().await;
    assert!(charged.output >= 1 && charged.fresh > 0, "{charged:?}");
    assert_eq!(u64::from(charged.output), our_text.usage().completion_tokens);
    let refused = Ask::of(&package, ONE).apart(&inference).await.unwrap_err();
    assert!(matches!(refused, GenerationError::Worker(WorkerError::Resting { .. })), "{refused:?}");

    let mut read = 0;
    while let Some(chunk) = their_text.next().await.unwrap() {
        read += chunk.tokens.len();
    }
    assert!(read > 800, "the other tenant saw nothing: {read}");
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(whole(Ask::of(&package, ONE).apart(&inference).await.unwrap(), 1).await.is_ok());
}

async fn a_template_that_grows(scene: Scene) {
    let inference = scene.start(WorkerConfig { memory_bytes_max: 512 << 20, ..quick() });
    let grows = scene.package_of("examples/models/tiny-chat-genai", |folder| {
        let template = "{% set ns = namespace(x='0123456789abcdef') %}\
                        {% if messages[0].content == 'grow' %}{% for i in range(32) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{% endif %}\
                        {% for m in messages %}{{ m.content }}{% endfor %}";
        fs::write(folder.join("chat_template.jinja"), template).unwrap();
    });
    let time = Duration::from_secs(30);
    let theirs = Ask::of(&scene.chat_model(), TWO);
    whole(theirs.apart(&inference).await.unwrap(), 1).await.unwrap();
    let process = pid(&inference, TWO);
    prompt(&inference, &grows, ONE, &question("do not"), time).await.unwrap();
    let before = resident_bytes();
    let lost = prompt(&inference, &grows, ONE, &question("grow"), time).await;
    assert!(
        matches!(lost, Err(PromptError::Run(RunError::Worker(WorkerError::Crashed { .. })))),
        "64 GiB are more than a process has: {lost:?}"
    );
    assert!(resident_bytes() < before + (256 << 20), "none of it was here");
    assert!(whole(theirs.with(|_| {}).apart(&inference).await.unwrap(), 1).await.is_ok());
    assert_eq!(pid(&inference, TWO), process);
}

/// Of this process.
fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn no_more_generations_at_once_than_may(scene: Scene) {
    let inference = scene.start(WorkerConfig { runs_max: 2, ..quick() });
    let package = scene.chat_model();
    let start = async || Ask::long(&package, ONE).apart(&inference).await;
    let (first, second) = (start().await.unwrap(), start().await.unwrap());
    let refused = start().await.unwrap_err();
    assert!(matches!(refused, GenerationError::Busy { limit: 2, .. }), "{refused:?}");
    drop((first, second));
    until("both are gone", || inference.workers().workers[0].runs_open == 0).await;
    assert!(start().await.is_ok());
}

async fn a_reader_that_takes_nothing_is_cut(scene: Scene) {
    let node = Config { generation_stall_ms: 500, ..Config::default() };
    let inference = scene.start_with(node, quick(), std::env::current_exe().unwrap());
    let ask = Ask::long(&scene.chat_model(), ONE);
    let mut generation = ask.apart(&inference).await.unwrap();
    assert_eq!(ask.settled().await.output, 16);
    assert_eq!(generation.next().await.unwrap().unwrap().tokens.len(), 16);
    let cut = generation.next().await;
    assert!(matches!(cut, Err(GenerationError::Stalled)), "{cut:?}");
    assert_eq!(inference.workers().crashes_total, 0);
}

async fn a_model_too_large_for_its_process(scene: Scene) {
    let inference = scene.start(WorkerConfig { memory_bytes_max: 64 << 20, ..quick() });
    let large = scene.package_of("examples/models/tiny-chat-genai", |folder| {
        let data = fs::OpenOptions::new().write(true).open(folder.join("model.onnx.data")).unwrap();
        data.set_len(100 << 20).unwrap();
    });
    let ask = Ask::of(&large, ONE);
    let refused = ask.apart(&inference).await.unwrap_err();
    assert!(matches!(refused, GenerationError::Load(LoadError::NeverFitsApart { .. })), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("64 MiB (workers.memory_bytes_max)"), "{text}");
    assert_eq!(ask.settled().await.output, 0);
    assert!(whole(Ask::of(&scene.chat_model(), ONE).apart(&inference).await.unwrap(), 1).await.is_ok());
}

async fn slots_are_as_many_as_there_is_memory_for(scene: Scene) {
    // Half of it is for attention state: less than all slots would reserve.
    let inference = scene.start(WorkerConfig { memory_bytes_max: 128 << 20, ..quick() });
    let package = scene.chat_model();
    let asks: Vec<_> = (0..6).map(|_| Arc::new(Ask::of(&package, ONE).with(|_| {}))).collect();
    let all = asks.iter().map(|ask| async { whole(ask.apart(&inference).await.unwrap(), 1).await.unwrap() });
    let texts = futures::future::join_all(all).await;
    assert!(texts.iter().all(|(choices, _)| choices[0].text == texts[0].0[0].text && !choices[0].text.is_empty()));
    assert_eq!(inference.workers().crashes_total, 0);
}
