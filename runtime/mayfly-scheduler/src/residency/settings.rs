//! The limits of one device.

/// Limits of a [`super::Residency`]. Times are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that all sessions together may have of their own.
    pub bytes_max: u64,
    /// Sessions at once, those that come and go included. Zero is read as one.
    pub sessions_max: u32,
    /// Callers that wait for a load, whether it has begun or not. Zero is read as one.
    pub waiting_max: u32,
    /// A session stays at least this long after its load.
    pub stay_ns: u64,
    /// A session goes after this long without work.
    pub idle_ns: u64,
    /// How often a load that finds no room may be passed by later ones.
    pub passes_max: u32,
}
