//! What a session will take, said before its load: from the sizes of its files, corrected by what an earlier load took.
//!
//! Two kinds of bytes, as the scheduler counts them. Weights in files beside the graph are mapped; what ONNX Runtime
//! makes of a model in its own memory is not: weights inside the graph, and weights that it packs for the CPU anew.

use std::collections::HashMap;

use mayfly_scheduler::residency::Need;
use mayfly_types::Digest;

use crate::Device;

/// What any session takes beside its weights, about: the graph itself, an arena, a thread.
pub(crate) const SESSION_BYTES_MIN: u64 = 512 << 10;
/// Models of which it is remembered what they took.
const MEASURES_MAX: usize = 4096;

/// Sizes of a model's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    /// The `.onnx` file: the graph and the weights inside it.
    pub(crate) graph: u64,
    /// The files beside it that it names.
    pub(crate) beside: u64,
}

/// Which file a session runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum File {
    /// This node's prepacked copy.
    Copy,
    /// The package's own, its weights packed for the CPU at the load.
    Package,
    /// The package's own, as they are.
    Unpacked,
}

/// The prediction from sizes alone.
pub(super) fn predict(weights: Weights, device: Device, file: File) -> Need {
    let Weights { graph, beside } = weights;
    let parts = |own: u64, mapped| Need { own: own.saturating_add(SESSION_BYTES_MIN), mapped };
    match (device, file) {
        // The device's own memory: nothing there is a file's page. Measured nowhere, so a fifth more than the weights.
        (Device::Cuda, _) => parts((graph.saturating_add(beside)).saturating_mul(6) / 5, 0),
        // Packed weights are mapped; what could not be packed in place is made at the load.
        (Device::Cpu, File::Copy) => parts(graph.saturating_mul(2).saturating_add(beside / 32), beside),
        (Device::Cpu, File::Unpacked) => parts((graph / 2).saturating_mul(3), beside),
        // Half as much again as the graph has inside, and all weights once more as they are packed.
        (Device::Cpu, File::Package) => parts((graph / 2).saturating_mul(3).saturating_add(beside), beside),
    }
}

/// What a measure is of.
pub(super) type Measured = (Digest, Device, File);

/// What earlier loads took of their own.
#[derive(Debug, Default)]
pub(super) struct Measures(HashMap<Measured, u64>);

impl Measures {
    /// `predicted`, corrected. A measure is blurred by whatever else the process does at the time, so it never says
    /// that something cannot be loaded at all.
    pub(super) fn correct(&self, key: Measured, predicted: Need, budget: u64) -> Need {
        let Some(&measured) = self.0.get(&key) else { return predicted };
        let room = budget.saturating_sub(predicted.mapped);
        Need { own: if predicted.own <= room { measured.min(room) } else { measured }, ..predicted }
    }

    /// Gives what counts: no session takes less than [`SESSION_BYTES_MIN`].
    pub(super) fn note(&mut self, key: Measured, own: u64) -> u64 {
        let own = own.max(SESSION_BYTES_MIN);
        if self.0.len() < MEASURES_MAX || self.0.contains_key(&key) {
            self.0.insert(key, own);
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_mapped_is_not_its_own() {
        let weights = Weights { graph: MIB, beside: 400 * MIB };
        let copy = predict(weights, Device::Cpu, File::Copy);
        assert!(copy.own < 20 * MIB && copy.mapped == 400 * MIB, "{copy:?}");
        let package = predict(weights, Device::Cpu, File::Package);
        assert!(package.own > 400 * MIB && package.mapped == 400 * MIB, "{package:?}");
        let inside = predict(Weights { graph: 400 * MIB, beside: 0 }, Device::Cpu, File::Package);
        assert!(inside.own > 577 * MIB && inside.mapped == 0, "{inside:?}");
        let unpacked = predict(weights, Device::Cpu, File::Unpacked);
        assert!(unpacked.own < 4 * MIB && unpacked.mapped == 400 * MIB, "{unpacked:?}");
        assert_eq!(predict(weights, Device::Cuda, File::Copy).mapped, 0);
        assert_eq!(predict(Weights { graph: u64::MAX, beside: u64::MAX }, Device::Cuda, File::Package).mapped, 0);
    }

    #[test]
    fn a_measure_corrects_and_never_forbids() {
        let mut measures = Measures::default();
        let key = (Digest::of(b"m"), Device::Cpu, File::Package);
        let predicted = Need { own: 60, mapped: 30 };
        assert_eq!(measures.correct(key, predicted, 100), predicted);
        assert_eq!(measures.note(key, 5), SESSION_BYTES_MIN);
        assert_eq!(measures.correct(key, predicted, u64::MAX).own, SESSION_BYTES_MIN);
        assert_eq!(measures.correct(key, predicted, 100).own, 70, "with its pages it takes the whole budget");
        assert_eq!(measures.correct(key, Need { own: 80, mapped: 30 }, 100).own, SESSION_BYTES_MIN);
    }
}
