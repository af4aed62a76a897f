//! Which run of the model is next: a chunk of somebody's prompt, or a token for those who decode.

use std::collections::BTreeMap;

use super::compaction::{Move, next_move};
use super::scheduler::{Running, Scheduler};
use super::slots::Occupant;
use super::step::{Notice, Row, Step};
use super::submission::SequenceId;

impl Scheduler {
    /// A prefill or a decode step, in turns where there is both.
    pub(super) fn run(&mut self) -> Option<Step> {
        let decoding = self.sequences.values().filter(|sequence| sequence.decodes()).count();
        let decoding = u32::try_from(decoding).unwrap_or(u32::MAX);
        // Decode steps until everybody has a token.
        let round = if self.settings.batched { decoding.min(1) } else { decoding };
        match self.next_prefill() {
            Some(id) if self.pace.prefill_is_due(round) => Some(self.prefill(id, round)),
            _ if self.settings.batched => self.decode_all(),
            _ => self.decode_one(),
        }
    }

    /// Owners take turns, each with its sequences in the order of their admission.
    fn next_prefill(&self) -> Option<SequenceId> {
        let mut first = BTreeMap::new();
        for sequence in self.sequences.values().filter(|sequence| sequence.prefills()) {
            let place = (sequence.admitted, sequence.id);
            let first = first.entry(sequence.owner).or_insert(place);
            *first = place.min(*first);
        }
        let next =
            first.into_iter().min_by_key(|(owner, (admitted, _))| (*admitted).max(self.queues.prefilled(*owner)));
        next.map(|(_, (_, id))| id)
    }

    fn prefill(&mut self, id: SequenceId, round: u32) -> Step {
        let chunk = self.pace.chunk(round);
        let sequence = self.sequences.get_mut(&id).expect("next_prefill found it");
        let start = sequence.past;
        let tokens = sequence.take_chunk(chunk);
        self.slots.touch(sequence.slot, sequence.past);
        self.queues.prefills(sequence.owner, self.turn);
        self.pace.gave_prefill();
        if !std::mem::replace(&mut sequence.started, true) {
            self.notices.push(Notice::Started { id, cached: sequence.cached });
        }
        self.running = Some(Running::Prefill { id, tokens: sequence.past - start, round });
        Step::Prefill { id, slot: sequence.slot, start, tokens, last: !sequence.prefills() }
    }

    fn decode_all(&mut self) -> Option<Step> {
        let mut ids: Vec<_> = self.sequences.values().filter(|s| s.decodes()).map(|s| s.id).collect();
        if ids.is_empty() {
            return None;
        }
        loop {
            let rows: Vec<u32> = ids.iter().map(|id| self.sequences[id].slot).collect();
            let Some(Move { from, to }) = next_move(&mut self.slots, &rows) else { break };
            let positions = self.transfer(from, to);
            if positions > 0 {
                self.running = Some(Running::Copy { to });
                return Some(Step::Copy { from, to, positions });
            }
            // Its slot may hold more from before than the one that comes there may.
            if let Some(release) = self.shrink() {
                return Some(release);
            }
        }
        ids.sort_by_key(|id| self.sequences[id].slot);
        Some(self.decode(ids))
    }

    /// Owners take turns, and so do the sequences of each.
    fn decode_one(&mut self) -> Option<Step> {
        let decoding = self.sequences.values().filter(|sequence| sequence.decodes());
        let next = decoding.min_by_key(|s| (self.queues.decoded(s.owner), s.owner, s.decoded, s.id)).map(|s| s.id);
        next.map(|id| self.decode(vec![id]))
    }

    fn decode(&mut self, ids: Vec<SequenceId>) -> Step {
        let mut rows = Vec::with_capacity(ids.len());
        for id in &ids {
            let sequence = self.sequences.get_mut(id).expect("it decodes");
            let (past, token) = (sequence.past, sequence.take_token());
            sequence.decoded = self.turn;
            self.slots.touch(sequence.slot, sequence.past);
            self.queues.decodes(sequence.owner, self.turn);
            rows.push(Row { id: *id, slot: sequence.slot, past, token });
        }
        self.pace.gave_decode();
        self.running = Some(Running::Decode { ids });
        Step::Decode { rows }
    }

    /// Whoever is in slot `from` is in `to` now; returns how many positions have to be copied.
    fn transfer(&mut self, from: u32, to: u32) -> u32 {
        let positions = match self.slots.occupant(from) {
            Occupant::Nobody => 0,
            Occupant::Kept(prefix) => u32::try_from(prefix.tokens.len()).expect("at most context_max"),
            Occupant::Live { id, .. } => {
                let sequence = self.sequences.get_mut(id).expect("a live slot has its sequence");
                sequence.slot = to;
                sequence.past
            }
        };
        self.slots.moved(from, to, positions);
        positions
    }
}
