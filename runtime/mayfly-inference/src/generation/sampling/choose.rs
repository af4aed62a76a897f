//! Truncation and the draw. Never sorts a whole row: without `top_k` and `top_p` nothing is sorted, else only as much as
//! the answer needs.

use std::cmp::Ordering;

use super::Sampling;
use super::random::Random;
use super::scan::{BLOCK, EXPONENT_MIN, Weighing, block_max};

/// Temperatures below this are greedy: the weights would all be 0 or 1 anyway.
pub(super) const TEMPERATURE_MIN: f32 = 1e-5;
/// So few candidates are sorted; more are halved first. A peaked distribution needs only the first so many.
const SORTED_MAX: usize = 64;
/// Values that are skipped together if none of them can be a candidate.
const SKIPPED: usize = 64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) token: u32,
    pub(super) logit: f32,
}

impl Candidate {
    /// The likelier first, the lower id of equals.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// Draws tokens; keeps its buffers from step to step.
#[derive(Debug, Clone)]
pub(super) struct Chooser {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    /// The least exponent that `min_p` allows.
    floor: f32,
    candidates: Vec<Candidate>,
    blocks: Vec<f64>,
}

impl Chooser {
    pub(super) fn new(sampling: &Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_k: sampling.top_k as usize,
            top_p: sampling.top_p,
            floor: sampling.min_p.ln().max(EXPONENT_MIN),
            candidates: Vec::new(),
            blocks: Vec::new(),
        }
    }

    pub(super) fn is_greedy(&self) -> bool {
        self.temperature < TEMPERATURE_MIN
    }

    /// Draws a token. `max` is the largest logit, finite; the answer is an index into `logits`.
    pub(super) fn draw(&mut self, logits: &[f32], max: f32, random: &mut Random) -> u32 {
        let unit = random.unit();
        let all = Weighing { max, inverse_temperature: self.temperature.recip(), floor: EXPONENT_MIN };
        let counted = self.top_k > 0 && self.top_k < logits.len();
        if !counted && self.top_p >= 1.0 {
            return draw_from_row(logits, Weighing { floor: self.floor, ..all }, &mut self.blocks, unit);
        }
        if counted {
            gather_top(logits, self.top_k, &mut self.candidates);
        } else {
            self.gather_likely(logits, all);
        }
        if self.top_p < 1.0 {
            // Of what `top_k` left; without it, of everything.
            let total = if counted { sum(&self.candidates, all) } else { self.blocks.iter().sum() };
            keep_nucleus(&mut self.candidates, all, f64::from(self.top_p) * total);
        }
        draw_from(&self.candidates, Weighing { floor: self.floor, ..all }, unit)
    }

    /// Candidates that can be in the nucleus: those less likely than `(1 - top_p) / n` are together less likely than
    /// `1 - top_p`, so the nucleus is full before them.
    fn gather_likely(&mut self, logits: &[f32], all: Weighing) {
        self.blocks.clear();
        self.blocks.extend(logits.chunks(BLOCK).map(|block| all.block_sum(block)));
        let total = self.blocks.iter().sum::<f64>();
        let least = (1.0 - f64::from(self.top_p)) * total / logits.len() as f64;
        // A little lower, for the rounding of the sums.
        #[expect(clippy::cast_possible_truncation, reason = "a bound with slack")]
        let least = (least.ln() as f32 - 0.01).max(EXPONENT_MIN);
        self.candidates.clear();
        for (start, block) in (0_u32..).step_by(SKIPPED).zip(logits.chunks(SKIPPED)) {
            if all.exponent(block_max(block)) < least {
                continue;
            }
            let likely = (start..).zip(block).filter(|(_, logit)| all.exponent(**logit) >= least);
            self.candidates.extend(likely.map(|(token, logit)| Candidate { token, logit: *logit }));
        }
    }
}

/// The `count` likeliest tokens, in no order, without NaN and minus infinity. `count` is at least 1.
fn gather_top(logits: &[f32], count: usize, into: &mut Vec<Candidate>) {
    into.clear();
    // Room for as many again, so that the buffer is thinned out rarely.
    let room = count + count.max(SORTED_MAX);
    let mut least = f32::NEG_INFINITY;
    for (start, block) in (0_u32..).step_by(SKIPPED).zip(logits.chunks(SKIPPED)) {
        if block_max(block) <= least {
            continue;
        }
        for (token, logit) in (start..).zip(block) {
            // Not at equality: of equals the lower id stays, and that came first.
            if *logit > least {
                into.push(Candidate { token, logit: *logit });
                if into.len() == room {
                    least = thin_out(into, count);
                }
            }
        }
    }
    if into.len() > count {
        thin_out(into, count);
    }
}

/// Keeps the `count` first of more than `count` candidates; the logit of the last of them.
fn thin_out(candidates: &mut Vec<Candidate>, count: usize) -> f32 {
    let (_, last, _) = candidates.select_nth_unstable_by(count - 1, Candidate::order);
    let least = last.logit;
    candidates.truncate(count);
    least
}

/// The `count` likeliest tokens, the likeliest first.
pub(super) fn top(logits: &[f32], count: usize, buffer: &mut Vec<Candidate>) {
    buffer.clear();
    if count > 0 {
        gather_top(logits, count, buffer);
        buffer.sort_unstable_by(Candidate::order);
    }
}

/// Keeps the likeliest candidates that together weigh at least `target`: at least one.
///
/// Halves the part in which the last of them must be, so that the whole takes a few passes and no sorting.
fn keep_nucleus(candidates: &mut Vec<Candidate>, weighing: Weighing, target: f64) {
    let mut weight = 0.0;
    // Everything before `from` is in, everything from `to` on is out.
    let (mut from, mut to) = (0, candidates.len());
    let mut half = SORTED_MAX;
    while to - from > SORTED_MAX {
        let part = &mut candidates[from..to];
        part.select_nth_unstable_by(half, Candidate::order);
        let likelier = sum(&part[..half], weighing);
        if weight + likelier >= target {
            to = from + half;
        } else {
            weight += likelier;
            from += half;
        }
        half = ((to - from) / 2).max(1);
    }
    candidates[from..to].sort_unstable_by(Candidate::order);
    for index in from..to {
        weight += f64::from(weighing.weight(candidates[index].logit));
        if weight >= target {
            candidates.truncate(index + 1);
            return;
        }
    }
    candidates.truncate(to.max(1));
}

fn sum(candidates: &[Candidate], weighing: Weighing) -> f64 {
    candidates.iter().map(|candidate| f64::from(weighing.weight(candidate.logit))).sum()
}

fn draw_from(candidates: &[Candidate], weighing: Weighing, unit: f64) -> u32 {
    let mut left = unit * sum(candidates, weighing);
    let mut last = 0;
    for candidate in candidates {
        let weight = f64::from(weighing.weight(candidate.logit));
        if weight > 0.0 {
            last = candidate.token;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

/// Draws without gathering anything: one pass for the weights of blocks, then one block.
fn draw_from_row(logits: &[f32], weighing: Weighing, blocks: &mut Vec<f64>, unit: f64) -> u32 {
    blocks.clear();
    blocks.extend(logits.chunks(BLOCK).map(|block| weighing.block_sum(block)));
    let mut left = unit * blocks.iter().sum::<f64>();
    let mut chosen = 0;
    for (index, weight) in blocks.iter().enumerate() {
        if *weight > 0.0 {
            chosen = index;
            if left < *weight {
                break;
            }
            left -= weight;
        }
    }
    let start = chosen * BLOCK;
    let block = &logits[start..logits.len().min(start + BLOCK)];
    let mut last = 0;
    for (index, logit) in block.iter().enumerate() {
        let weight = f64::from(weighing.weight(*logit));
        if weight > 0.0 {
            last = index;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    u32::try_from(start + last).expect("a vocabulary has fewer than 2^32 tokens")
}
