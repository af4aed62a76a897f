mod choice;
mod properties;
mod queue;

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{Batcher, Owner, Pushed, Settings, Shape, Take, Waiting};

const SETTINGS: Settings = Settings { runs_max: 64, rows_max: 8, positions_max: 64, delay: Duration::ZERO };

/// Nobody shares what waits.
const ONE: NonZeroUsize = NonZeroUsize::MIN;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn shape(rows: u32, positions: u32) -> Option<Shape> {
    Some(Shape { rows, positions, pads: true, like: Box::default() })
}

/// Job `job` of `owner`, come at `job` milliseconds.
fn run(owner: Owner, job: u32, shape: Option<Shape>) -> Waiting<u32> {
    let cost = shape.as_ref().map_or(1, Shape::size);
    Waiting { owner, arrived: at(job.into()), cost, shape, job }
}

fn filled(settings: Settings, runs: impl IntoIterator<Item = Waiting<u32>>) -> Batcher<u32> {
    let mut batcher = Batcher::new(settings);
    for run in runs {
        assert_eq!(batcher.push(run), Pushed::Waits);
    }
    batcher
}

/// The jobs of the next batch, sorted.
fn next(batcher: &mut Batcher<u32>) -> Vec<u32> {
    match batcher.take(at(10_000), ONE, |_| false, &mut Vec::new()) {
        Take::Run(mut jobs) => {
            jobs.sort_unstable();
            jobs
        }
        Take::Nothing => Vec::new(),
        Take::WaitUntil(time) => panic!("it waits until {time:?}"),
    }
}
