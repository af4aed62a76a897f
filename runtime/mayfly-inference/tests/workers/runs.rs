//! Runs in a process of their own give what they give in the server's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use libtest_mimic::Trial;
use mayfly_inference::{Caller, Device, ElementType, Inference, Package, RunError, Tensor, WorkerConfig};
use mayfly_types::ModelId;
use tokio_util::sync::CancellationToken;

use crate::scene::{Inputs, ONE, Run, Scene, add, endless, f32s, inputs, limits, pid, quick, turns, until, values};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_same_outputs_as_in_the_server", the_same_outputs_as_in_the_server),
        trial("time_is_told_where_it_went", time_is_told_where_it_went),
        trial("a_bad_run_fails_alone", a_bad_run_fails_alone),
        trial("many_at_once_through_little_memory", many_at_once_through_little_memory),
        trial("a_run_is_stopped_at_its_deadline_and_its_process_goes_on", a_run_is_stopped_at_its_deadline),
        trial("who_leaves_before_it_began_owes_nothing", who_leaves_before_it_began_owes_nothing),
        trial("no_more_runs_at_once_than_may", no_more_runs_at_once_than_may),
        trial("weights_of_a_prepacked_copy_are_shared", weights_of_a_prepacked_copy_are_shared),
    ]
}

/// Names, types, shapes and bytes.
type Shown = Vec<(String, ElementType, Vec<u32>, Vec<u8>)>;

fn shown(outputs: &[mayfly_inference::Output]) -> Shown {
    let mut shown: Shown = outputs
        .iter()
        .map(|output| {
            let tensor = &output.tensor;
            (output.name.clone(), tensor.element_type(), tensor.dimensions().to_vec(), tensor.bytes().to_vec())
        })
        .collect();
    shown.sort_by(|left, right| left.0.cmp(&right.0));
    shown
}

/// Runs here and there, and compares.
async fn compare(inference: &Inference, run: &Run, inputs: Inputs) {
    let prepared = run.package.prepare(ModelId::new(), inputs.clone(), limits()).unwrap();
    let (deadline, cancel) = (Instant::now() + Duration::from_secs(60), CancellationToken::new());
    let caller = Caller { owner: ONE, deadline, cancel: &cancel };
    let here = inference.run(&run.package, Device::Cpu, prepared, caller, || {}).await.unwrap();
    let begun = run.begun();
    let there = run.go(inputs).await.unwrap();
    assert_eq!(shown(&there.0), shown(&here.0));
    assert_eq!(run.begun(), begun + 1, "it began once");
}

async fn the_same_outputs_as_in_the_server(scene: Scene) {
    let inference = scene.start(quick());
    let of = |name: &str| Run::of(&inference, ONE, &scene.package(name));

    compare(&inference, &of("add"), add(1.5, 2.0)).await;

    let types = of("types");
    let bytes = |element_type: ElementType, n: u32| {
        let len = n as usize * element_type.size();
        let any = (0..251_u8).cycle().map(|byte| if element_type == ElementType::Bool { 1 } else { 0x3c ^ byte });
        Tensor::from_bytes(element_type, &[n], &any.take(len).collect::<Vec<_>>()).unwrap()
    };
    use ElementType::{Bf16, Bool, F16, F32, F64, I32, I64, U8};
    for n in [3, 4_000] {
        let all = [F16, F32, F64, Bf16, U8, I32, I64, Bool];
        let names = ["f16", "f32", "f64", "bf16", "u8", "i32", "i64", "bool"];
        let given: Inputs = names.iter().zip(all).map(|(name, ty)| ((*name).to_owned(), bytes(ty, n))).collect();
        compare(&inference, &types, given).await;
    }

    // Large in both directions, large in one, and a size beside every edge of a page.
    let matmul = of("matmul");
    let numbers = |n: u32| (0..n).map(|at| (at % 97) as f32 / 97.0).collect::<Vec<_>>();
    for (n, k, m) in [(300, 400, 300), (1, 5000, 1), (400, 1, 400), (64, 64, 1), (65, 63, 33)] {
        let given = inputs(&[("a", f32s(&[n, k], &numbers(n * k))), ("b", f32s(&[k, m], &numbers(k * m)))]);
        compare(&inference, &matmul, given).await;
    }

    // A decoder's logits are cut to each row's last position, and its state goes back in.
    let decoder = of("decoder");
    let ids = |ids: [i64; 3]| {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        Tensor::from_bytes(I64, &[1, 3], &bytes).unwrap()
    };
    let given: Inputs = decoder
        .package
        .info()
        .inputs
        .iter()
        .map(|input| {
            use mayfly_inference::{DimensionInfo, Role};
            let tensor = match input.role {
                Role::Ids => ids([1, 2, 3]),
                Role::Mask => ids([1, 1, 1]),
                Role::Positions => ids([0, 1, 2]),
                _ => {
                    // An empty past.
                    let fixed = |dimension: &DimensionInfo| match dimension {
                        DimensionInfo::Fixed(size) => *size,
                        DimensionInfo::Named(name) if name.contains("batch") => 1,
                        _ => 0,
                    };
                    let dimensions: Vec<u32> = input.dimensions.iter().map(fixed).collect();
                    Tensor::from_bytes(input.element_type, &dimensions, &[]).unwrap()
                }
            };
            (input.name.clone(), tensor)
        })
        .collect();
    compare(&inference, &decoder, given).await;
    assert_eq!(inference.workers().starts_total, 1, "all in one process");
}

/// Bytes that the load of 64 MiB of weights takes of a process's own.
async fn own_bytes(inference: &Inference, package: &Arc<Package>) -> u64 {
    let row: Vec<f32> = (0..4096_u16).map(|at| f32::from(at % 97) / 97.0).collect();
    compare(inference, &Run::of(inference, ONE, package), inputs(&[("x", f32s(&[1, 4096], &row))])).await;
    let bytes = || inference.bytes_apart(ONE, package.digest(), Device::Cpu);
    until("the process tells what the model takes", || bytes() > 0).await;
    bytes()
}

async fn weights_of_a_prepacked_copy_are_shared(scene: Scene) {
    let inference = scene.start_with_copies(quick());
    let package = scene.heavy(&inference);
    assert_eq!(inference.copies().unwrap().stored().unwrap(), [package.digest()]);
    let shared = own_bytes(&inference, &package).await;
    assert!(shared < 16 << 20, "{shared}");
    drop(inference);

    let without = scene.start(quick());
    let packed = own_bytes(&without, &package).await;
    assert!(packed >= 64 << 20, "{packed}");
}

async fn time_is_told_where_it_went(scene: Scene) {
    let inference = scene.start(quick());
    let run = Run::of(&inference, ONE, &scene.package("add"));
    assert!(!inference.is_loaded_apart(ONE, run.package.digest(), Device::Cpu));
    let (outputs, stats) = run.go(add(1.0, 2.0)).await.unwrap();
    assert_eq!(values(&outputs[0].tensor), [3.0]);
    assert!(stats.load.is_some() && stats.run > Duration::ZERO, "{stats:?}");
    assert!(inference.is_loaded_apart(ONE, run.package.digest(), Device::Cpu));
    assert!(!inference.is_loaded(run.package.digest(), Device::Cpu), "not in the server");
    let (_, stats) = run.go(add(1.0, 2.0)).await.unwrap();
    assert_eq!(stats.load, None, "process and model were there");
}

async fn a_bad_run_fails_alone(scene: Scene) {
    let inference = scene.start(quick());
    let run = Run::of(&inference, ONE, &scene.package("add"));
    // Only the graph finds out that 2 and 3 do not fit.
    let failed = run.go(inputs(&[("x", f32s(&[2], &[1.0; 2])), ("y", f32s(&[3], &[1.0; 3]))])).await;
    assert!(matches!(&failed, Err(RunError::Failed(text)) if !text.contains('/')), "{failed:?}");
    assert_eq!(run.begun(), 1, "it had begun");
    assert!(run.go(add(1.0, 2.0)).await.is_ok());
    assert_eq!(inference.workers().crashes_total, 0);
}

async fn many_at_once_through_little_memory(scene: Scene) {
    let inference = scene.start(WorkerConfig { shared_bytes_max: 4 << 20, runs_max: 64, ..quick() });
    let run = Run::of(&inference, ONE, &scene.package("add"));
    // 1.6 MB in, 0.8 MB out; four of them would not fit.
    let large = |left: f32| {
        let of = |value: f32| f32s(&[200_000], &vec![value; 200_000]);
        inputs(&[("x", of(left)), ("y", of(1.0))])
    };
    let runs: Vec<_> = (0..24_u8).map(|left| run.spawn(large(f32::from(left)))).collect();
    for (left, ran) in join_all(runs).await.into_iter().enumerate() {
        let (outputs, _) = ran.unwrap().unwrap();
        assert_eq!(values(&outputs[0].tensor)[199_999], left as f32 + 1.0);
    }
    assert_eq!(run.begun(), 24);
    // What can never fit is said at once.
    let huge = f32s(&[1_200_000], &vec![0.0; 1_200_000]);
    let refused = run.go(inputs(&[("x", huge.clone()), ("y", huge)])).await;
    assert!(
        matches!(&refused, Err(RunError::TooLarge(text)) if text.contains("workers.shared_bytes_max")),
        "{refused:?}"
    );
    let matmul = Run::of(&inference, ONE, &scene.package("matmul"));
    let long = |dimensions: [u32; 2]| f32s(&dimensions, &[1.0; 1500]);
    let refused = matmul.go(inputs(&[("a", long([1500, 1])), ("b", long([1, 1500]))])).await;
    assert!(matches!(&refused, Err(RunError::TooLarge(text)) if text.contains("outputs")), "{refused:?}");
    assert_eq!(matmul.begun(), 1, "only once it ran was that known");
    assert!(run.go(large(1.0)).await.is_ok(), "nothing of it is left in the way");
}

async fn a_run_is_stopped_at_its_deadline(scene: Scene) {
    let inference = scene.start(quick());
    let add_run = Run::of(&inference, ONE, &scene.package("add"));
    add_run.go(add(1.0, 1.0)).await.unwrap();
    let process = pid(&inference, ONE);
    let slow = Run::of(&inference, ONE, &scene.package("slow"));
    // Loaded: the deadline of the next one is for its run.
    slow.go(turns(1)).await.unwrap();
    let slow = slow.within(Duration::from_millis(800));
    let stopped = slow.go(endless()).await;
    assert!(matches!(stopped, Err(RunError::Stopped { started: true })), "{stopped:?}");
    assert_eq!(slow.begun(), 2);
    until("the stopped run has ended", || inference.workers().workers.iter().all(|worker| worker.runs_open == 0)).await;
    assert!(add_run.go(add(1.0, 1.0)).await.is_ok());
    assert_eq!((pid(&inference, ONE), inference.workers().crashes_total), (process, 0), "the same process");
}

async fn who_leaves_before_it_began_owes_nothing(scene: Scene) {
    let inference = scene.start(quick());
    let slow = Run::of(&inference, ONE, &scene.package("slow"));
    let first = slow.spawn(endless());
    until("the first has begun", || slow.begun() == 1).await;
    let second = Run::of(&inference, ONE, &slow.package);
    let waiting = second.spawn(endless());
    until("the second waits", || inference.workers().workers[0].runs_open == 2).await;
    second.cancel.cancel();
    assert!(matches!(waiting.await.unwrap(), Err(RunError::Stopped { started: false })));
    slow.cancel.cancel();
    assert!(matches!(first.await.unwrap(), Err(RunError::Stopped { started: true })));
    until("both have ended", || inference.workers().workers[0].runs_open == 0).await;
    assert_eq!((slow.begun(), second.begun()), (1, 0));
}

async fn no_more_runs_at_once_than_may(scene: Scene) {
    let inference = scene.start(WorkerConfig { runs_max: 2, ..quick() });
    let slow = Run::of(&inference, ONE, &scene.package("slow"));
    let runs = [slow.spawn(endless()), slow.spawn(endless())];
    until("both are there", || inference.workers().workers.first().is_some_and(|worker| worker.runs_open == 2)).await;
    let refused = slow.go(endless()).await;
    assert!(matches!(refused, Err(RunError::QueueFull { limit: 2 })), "{refused:?}");
    slow.cancel.cancel();
    for run in runs {
        assert!(run.await.unwrap().is_err());
    }
}
