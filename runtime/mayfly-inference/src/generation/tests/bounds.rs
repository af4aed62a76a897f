//! Full queues, short memory, eviction, an idle thread, and faults of others that must not spread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{
    ABC, ABC_GOES_ON, Account, Constraint, Finish, Generation, GenerationAccount, GenerationError, GenerationRequest,
    HELLO, HELLO_GOES_ON, Host, LAYOUTS, greedy, soon, whole,
};
use crate::package::tests::folder;
use crate::{Config, Device};

#[tokio::test]
async fn a_full_queue_refuses_with_its_size() {
    let host =
        Host::new("decoder_genai", Config { generation_slots: 1, generation_waiting_max: 2, ..Config::default() });
    let first = host.start(greedy(&HELLO, 100)).await.unwrap();
    host.until("it runs", |load| load.active == 1).await;
    let mut second = host.start(greedy(&ABC, 20)).await.unwrap();
    // Two choices need two places; none of them is kept.
    let both = host.start(GenerationRequest { choices: 2, ..greedy(&ABC, 20) }).await;
    assert!(matches!(both, Err(GenerationError::Busy { waiting: 2, limit: 2 })), "{both:?}");
    host.until("one waits", |load| load.waiting == 1).await;
    let third = host.start(greedy(&ABC, 20)).await.unwrap();
    let fourth = host.start(greedy(&ABC, 20)).await;
    assert!(matches!(fourth, Err(GenerationError::Busy { waiting: 2, limit: 2 })), "{fourth:?}");
    drop((first, third));
    assert_eq!(whole(&mut second).await.unwrap()[0].ids, ABC_GOES_ON);
}

#[tokio::test]
async fn a_constraint_waits_for_its_turn_no_longer_than_its_call() {
    let host = Host::new("decoder_genai", Config { constraint_compiles_max: 1, ..Config::default() });
    // Loaded before the clock runs.
    host.run(greedy(&HELLO, 1)).await;
    let constrained = |owner| {
        let mut request = GenerationRequest { owner, ..greedy(&HELLO, 5) };
        request.options.constraint = Some(Constraint::Regex("[a-z]{3}".to_owned()));
        request
    };
    let turn = host.inference.turns().take(1).await.unwrap();
    let account = Arc::new(Account::default());
    let hurried = GenerationRequest {
        deadline: Instant::now() + Duration::from_millis(100),
        account: Arc::<Account>::clone(&account),
        ..constrained(2)
    };
    assert!(matches!(host.start(hurried).await, Err(GenerationError::Stopped)));
    assert_eq!((account.inputs(), account.outputs()), (vec![], 0));
    assert_eq!(host.run(greedy(&HELLO, 20)).await.ids, HELLO_GOES_ON, "what has no constraint needs no turn");
    drop(turn);
    let made = host.run(constrained(2)).await;
    assert!(made.text.len() == 3 && made.text.bytes().all(|byte| byte.is_ascii_lowercase()), "{made:?}");
    // The turn was given back.
    host.inference.turns().take(3).await.unwrap();
}

#[tokio::test]
async fn short_memory_makes_sequences_wait_though_slots_are_free() {
    // 512 bytes a token: room for 2,048 of them.
    let config = Config {
        generation_slots: 64,
        generation_kv_bytes_max: 1 << 20,
        generation_waiting_max: 1,
        ..Config::default()
    };
    let host = Host::new("decoder_genai", config);
    let mut running: Vec<Generation> = Vec::new();
    for number in 0..17 {
        running.push(host.start(greedy(&[number, 1, 2, 3, 4], 115)).await.unwrap());
        // Both: what the engine tells of itself may be from before this one came.
        host.until("it has a slot", |load| (load.active, load.waiting) == (number + 1, 0)).await;
    }
    let mut waiting = host.start(greedy(&ABC, 100)).await.unwrap();
    host.until("it waits", |load| (load.active, load.waiting) == (17, 1)).await;
    assert!(
        host.load().kv_tokens <= host.load().kv_tokens_max && host.load().kv_tokens_max == 2048,
        "{:?}",
        host.load()
    );
    assert!(matches!(host.start(greedy(&ABC, 100)).await, Err(GenerationError::Busy { .. })));
    drop(running);
    assert_eq!(whole(&mut waiting).await.unwrap()[0].ids.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_goes_only_when_nobody_uses_it_and_comes_back() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config { generation_slots: 1, ..Config::default() });
        let digest = host.package.digest();
        let mut first = host.start(greedy(&HELLO, 20)).await.unwrap();
        let mut second = host.start(greedy(&HELLO, 20)).await.unwrap();
        assert_eq!(host.inference.evict_idle(true), 0, "one runs, one waits");
        assert!(host.inference.is_loaded(digest, Device::Cpu));
        for generation in [&mut first, &mut second] {
            assert_eq!(whole(generation).await.unwrap()[0].ids, HELLO_GOES_ON);
        }
        host.until("it rests", |load| load.active == 0).await;
        let resident = host.inference.residency();
        assert_eq!((resident.models.len(), resident.models[0].digest), (1, digest));
        while host.inference.evict_idle(true) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!host.inference.is_loaded(digest, Device::Cpu));
        assert!(host.inference.generation_load().is_empty());
        assert_eq!(host.run(greedy(&HELLO, 20)).await.ids, HELLO_GOES_ON);
        assert_eq!(host.inference.residency().loads_total, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lost_between_an_eviction_and_a_load() {
    let host = Arc::new(Host::new("decoder_genai", Config { session_stay_ms_min: 0, ..Config::default() }));
    let stop = Arc::new(AtomicBool::new(false));
    let (evicting, done) = (Arc::clone(&host), Arc::clone(&stop));
    let evictor = tokio::spawn(async move {
        let mut evicted = 0;
        while !done.load(Ordering::SeqCst) {
            evicted += evicting.inference.evict_idle(true);
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        evicted
    });
    for _ in 0..15 {
        let made = join_all((0..3).map(|_| host.run(greedy(&HELLO, 20)))).await;
        for made in made {
            assert_eq!((made.ids.as_slice(), made.finish), (&HELLO_GOES_ON[..], Some(Finish::Length)));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.store(true, Ordering::SeqCst);
    assert!(evictor.await.unwrap() > 0);
}

#[tokio::test]
async fn loads_of_one_engine_are_one() {
    let host = Host::new("decoder_genai", Config::default());
    let loads = (0..5).map(|_| host.inference.load_generation(&host.package, Device::Cpu, soon()));
    assert!(join_all(loads).await.into_iter().all(|loaded| loaded.is_ok()));
    assert_eq!(host.inference.residency().loads_total, 1);
    // A session for runs is another one, of the same model.
    host.inference.load(&host.package, Device::Cpu, soon()).await.unwrap();
    let residency = host.inference.residency();
    assert_eq!((residency.loads_total, residency.models.len()), (2, 1));
    assert_eq!(host.inference.evict_idle(true), 2);
}

/// Time on a CPU of the threads whose names begin so, ns.
fn cpu_time(name: &str) -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let of = |task: std::fs::DirEntry| {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
        read("comm")?.starts_with(name).then(|| read("schedstat"))??.split(' ').next()?.parse().ok()
    };
    tasks.filter_map(of).collect()
}

#[tokio::test]
async fn an_idle_engine_takes_no_cpu() {
    // A package like no other test's, so that its thread's name is its own.
    let copy = folder(&[
        ("decoder.onnx", "decoder_genai/decoder.onnx"),
        ("genai_config.json", "decoder_genai/genai_config.json"),
        ("tokenizer.json", "decoder_genai/tokenizer.json"),
    ]);
    let host = Host::of(copy.path(), Config::default());
    let name = format!("mayfly-gen-{}", &host.package.digest().hex()[..4]);
    assert_ne!(host.package.digest(), Host::new("decoder_genai", Config::default()).package.digest());
    host.run(greedy(&HELLO, 20)).await;
    let time_of = async |wait| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Its own, and those that help it with a run: they bear its name, and spin only while one is under way.
        let before = cpu_time(&name);
        assert!(!before.is_empty(), "the thread is there");
        tokio::time::sleep(wait).await;
        cpu_time(&name).iter().sum::<u64>() - before.iter().sum::<u64>()
    };
    assert_eq!(time_of(Duration::from_millis(500)).await, 0);
    // One that is paused is looked at now and then.
    let _paused = host.start(greedy(&HELLO, 100)).await.unwrap();
    host.until("it is paused", |load| load.active == 1).await;
    let time = time_of(Duration::from_secs(2)).await;
    assert!(time < 10_000_000, "{time} ns");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_mostly_the_model() {
    let host = Host::new("decoder_genai", Config { generation_slots: 8, ..Config::default() });
    join_all((0..8).map(|number| host.run(greedy(&[number, 1, 2], 120)))).await;
    host.until("it rests", |load| load.active == 0).await;
    let load = host.load();
    let own = (load.busy - load.run) / u32::try_from(load.steps).unwrap();
    eprintln!("{own:?} a step of this host's own, {:?} of the model", load.run / load.steps as u32);
    // Unoptimized, on a busy machine, for up to eight rows: some tens of microseconds elsewhere.
    assert!(own < Duration::from_millis(5), "{own:?} in each of {} steps", load.steps);
}

/// Panics where it is told to.
#[derive(Debug)]
struct Bomb {
    at_input: bool,
}

impl GenerationAccount for Bomb {
    fn input(&self, _: u32, _: u32) {
        assert!(!self.at_input, "a test's account fails");
    }

    fn output(&self, _: u32) {
        assert!(self.at_input, "a test's account fails");
    }

    fn ran(&self, _: Duration) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_one_is_the_end_of_that_one_only() {
    let host = Host::new("decoder_genai", Config::default());
    for at_input in [true, false] {
        let bystander = host.start(greedy(&HELLO, 20)).await.unwrap();
        let request = GenerationRequest { account: Arc::new(Bomb { at_input }), choices: 2, ..greedy(&ABC, 20) };
        let mut broken = host.start(request).await.unwrap();
        let error = whole(&mut broken).await.expect_err("its account panics");
        assert!(matches!(&error, GenerationError::Failed(said) if said.contains("host failed")), "{error:?}");
        let mut bystander = bystander;
        assert_eq!(whole(&mut bystander).await.unwrap()[0].ids, HELLO_GOES_ON);
    }
    assert_eq!(host.inference.residency().loads_total, 1, "the engine goes on");
    host.until("nobody is left", |load| load.active + load.waiting == 0).await;
}
