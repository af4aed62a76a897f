//! Tests run the scheduler against a simulated KV memory and model, and check every step.

mod pacing;
mod properties;
mod reuse;
mod sharing;
mod simulation;
mod steps;
