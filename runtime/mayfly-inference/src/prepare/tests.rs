//! Prepare as a whole.
