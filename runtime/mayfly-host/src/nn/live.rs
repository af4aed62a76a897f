//! Bytes of tensors alive in one instance, against `tensor_bytes_max`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::errors::NnError;

/// The count of one instance. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LiveBytes(Arc<Count>);

#[derive(Debug)]
struct Count {
    used: AtomicU64,
    max: u64,
}

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    live: LiveBytes,
    bytes: u64,
}

impl LiveBytes {
    pub(super) fn new(max: u64) -> Self {
        Self(Arc::new(Count { used: AtomicU64::new(0), max }))
    }

    /// Counts `bytes` more, or nothing and an error that names the limit.
    pub(super) fn take(&self, bytes: u64) -> Result<Share, NnError> {
        let fits = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.0.max);
        match self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Share { live: self.clone(), bytes }),
            Err(used) => Err(NnError::too_large(format!(
                "tensors alive at once may take tensor_bytes_max = {} bytes; {used} are in use and {bytes} more were asked for; \
                 drop tensors that are no longer needed",
                self.0.max
            ))),
        }
    }

    /// Bytes that can still be taken.
    pub(super) fn left(&self) -> u64 {
        self.0.max.saturating_sub(self.used())
    }

    pub(super) fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.live.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::nn::bindings::errors::ErrorCode;

    #[test]
    fn counts_up_and_down() {
        let live = LiveBytes::new(10);
        let first = live.take(6).unwrap();
        let error = live.take(5).unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
        assert!(error.text.contains("tensor_bytes_max = 10 bytes; 6 are in use and 5 more"), "{}", error.text);
        assert_eq!((live.used(), live.left()), (6, 4));
        let second = live.take(4).unwrap();
        drop(first);
        assert_eq!((live.used(), live.left()), (4, 6));
        drop(second);
        assert_eq!(live.used(), 0);
    }

    #[test]
    fn does_not_wrap() {
        let live = LiveBytes::new(u64::MAX);
        let _held = live.take(1).unwrap();
        assert!(live.take(u64::MAX).is_err());
        assert_eq!(live.used(), 1);
    }
}
