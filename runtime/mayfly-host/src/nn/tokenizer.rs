//! `mayfly:inference/tokenizer`: the tokenizer of a granted model. Its work counts as CPU time of the guest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_inference::{EncodeOptions as HostOptions, Encoding as HostEncoding, Package};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;

use super::bindings::errors::ErrorCode;
use super::bindings::tokenizer::{EncodeOptions, Encoding, Host};
use super::errors::NnError;
use super::{NnState, NnView};
use crate::cpu::thread_nanos;

/// Texts of one call.
const TEXTS_MAX: usize = 4096;
/// Bytes of one text: the work on one text cannot be stopped half way.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Bytes of all texts of one call.
const TEXTS_BYTES_MAX: usize = 8 << 20;
/// Ids of one `decode`.
const IDS_MAX: usize = 1 << 20;
/// Text (or ids, in bytes) beyond which the work leaves the async thread.
pub(super) const INLINE_BYTES_MAX: usize = 64 << 10;

/// Tells work that is under way when to stop.
#[derive(Debug)]
pub(super) struct Stop {
    cancel: CancellationToken,
    deadline: Instant,
    /// The CPU clock of the working thread when it began, and how far it may go.
    cpu_since: u64,
    cpu_nanos_left: u64,
    cpu_ms_max: u64,
}

impl Stop {
    fn cpu_used(&self) -> u64 {
        thread_nanos().saturating_sub(self.cpu_since)
    }

    fn check(&self) -> Result<(), NnError> {
        self.check_after(self.cpu_used())
    }

    /// With `cpu_used` nanoseconds used.
    fn check_after(&self, cpu_used: u64) -> Result<(), NnError> {
        if self.cancel.is_cancelled() {
            Err(NnError::closed())
        } else if Instant::now() >= self.deadline {
            Err(NnError::deadline())
        } else if cpu_used >= self.cpu_nanos_left {
            Err(cpu_used_up(self.cpu_ms_max))
        } else {
            Ok(())
        }
    }
}

fn cpu_used_up(limit_ms: u64) -> NnError {
    NnError::new(
        ErrorCode::Timeout,
        format!("the handler used guest_cpu_ms_max = {limit_ms} ms of CPU time, its tokenizer calls included"),
    )
}

impl NnState {
    /// Does CPU-bound work for the guest, on another thread if it is much, and counts its time.
    pub(super) async fn cpu_work<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Stop) -> Result<T, NnError> + Send + 'static,
    ) -> Result<T, NnError> {
        self.open()?;
        let cpu_ms_max = self.limits.guest_cpu_ms_max;
        let cpu_left = Duration::from_millis(cpu_ms_max).saturating_sub(self.meter.used());
        let cpu_nanos_left = u64::try_from(cpu_left.as_nanos()).unwrap_or(u64::MAX);
        let (cancel, deadline) = (self.cancel.child_token(), self.deadline);
        // Dropping this future stops work that has not ended.
        let _stops = cancel.clone().drop_guard();
        let work = move || {
            // Each look at the clock is a call of the system.
            let stop = Stop { cancel, deadline, cpu_since: thread_nanos(), cpu_nanos_left, cpu_ms_max };
            let result = stop.check_after(0).and_then(|()| work(&stop));
            (result, stop)
        };
        if bytes <= INLINE_BYTES_MAX {
            // The meter sees this thread by itself.
            return work().0;
        }
        let meter = Arc::clone(&self.meter);
        let counted = move || {
            let (result, stop) = work();
            meter.add(stop.cpu_used());
            result
        };
        self.within_call(tokio::task::spawn_blocking(counted))
            .await?
            .unwrap_or_else(|panic| Err(NnError::ours("the tokenizer failed", &panic.to_string())))
    }

    /// Waits for CPU-bound work that is done for the guest in another process, and counts the time that took there.
    pub(super) async fn cpu_work_apart<T, E: From<NnError>>(
        &self,
        work: impl Future<Output = Result<(T, Duration), E>>,
    ) -> Result<T, E> {
        self.open()?;
        let cpu_ms_max = self.limits.guest_cpu_ms_max;
        if self.meter.used() >= Duration::from_millis(cpu_ms_max) {
            return Err(cpu_used_up(cpu_ms_max).into());
        }
        let (done, time) = self.within_call(work).await??;
        self.meter.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Ok(done)
    }

    fn package(&self, alias: &str) -> Result<Arc<Package>, NnError> {
        self.grant(alias).map(|grant| Arc::clone(&grant.package))
    }

    async fn encode(
        &self,
        alias: &str,
        texts: Vec<String>,
        options: HostOptions,
    ) -> Result<Vec<HostEncoding>, NnError> {
        let package = self.package(alias)?;
        let bytes = check_texts(&texts)?;
        self.cpu_work(bytes, move |stop| each(&texts, stop, |text| Ok(package.encode(text, options)?))).await
    }

    async fn count(&self, alias: &str, texts: Vec<String>) -> Result<Vec<u32>, NnError> {
        let package = self.package(alias)?;
        let bytes = check_texts(&texts)?;
        self.cpu_work(bytes, move |stop| each(&texts, stop, |text| Ok(package.count(text)?))).await
    }

    async fn decode(&self, alias: &str, ids: Vec<u32>, skip_special_tokens: bool) -> Result<String, NnError> {
        let package = self.package(alias)?;
        if ids.len() > IDS_MAX {
            return Err(NnError::too_large(format!(
                "{} token ids in one call; at most {IDS_MAX} are taken",
                ids.len()
            )));
        }
        let bytes = ids.len().saturating_mul(size_of::<u32>());
        self.cpu_work(bytes, move |_| Ok(package.decode(&ids, skip_special_tokens)?)).await
    }
}

/// Works on one text after the other, so that it can stop between two. Whoever begins has looked just before.
fn each<T>(
    texts: &[String],
    stop: &Stop,
    work: impl Fn(&[String]) -> Result<Vec<T>, NnError>,
) -> Result<Vec<T>, NnError> {
    let mut done = Vec::with_capacity(texts.len());
    for (place, text) in texts.iter().enumerate() {
        if place > 0 {
            stop.check()?;
        }
        done.extend(work(std::slice::from_ref(text))?);
    }
    Ok(done)
}

/// The bytes of all texts, or the limit they break.
fn check_texts(texts: &[String]) -> Result<usize, NnError> {
    if texts.len() > TEXTS_MAX {
        return Err(NnError::too_large(format!("{} texts in one call; at most {TEXTS_MAX} are taken", texts.len())));
    }
    if let Some((index, text)) = texts.iter().enumerate().find(|(_, text)| text.len() > TEXT_BYTES_MAX) {
        let given = text.len();
        return Err(NnError::too_large(format!(
            "text {index} has {given} bytes; at most {TEXT_BYTES_MAX} are taken in one text"
        )));
    }
    let bytes = texts.iter().map(String::len).sum();
    if bytes > TEXTS_BYTES_MAX {
        return Err(NnError::too_large(format!(
            "the texts have {bytes} bytes; at most {TEXTS_BYTES_MAX} are taken in one call"
        )));
    }
    Ok(bytes)
}

impl Host for NnView<'_> {
    async fn encode(
        &mut self,
        alias: String,
        texts: Vec<String>,
        options: EncodeOptions,
    ) -> wasmtime::Result<Result<Vec<Encoding>, Resource<NnError>>> {
        let options = HostOptions { special_tokens: options.special_tokens, max_tokens: options.max_tokens };
        let result = self.nn.encode(&alias, texts, options).await.map(|encodings| {
            let to_wit = |HostEncoding { ids, token_types, truncated }| Encoding { ids, token_types, truncated };
            encodings.into_iter().map(to_wit).collect()
        });
        self.answer(result)
    }

    async fn decode(
        &mut self,
        alias: String,
        ids: Vec<u32>,
        skip_special_tokens: bool,
    ) -> wasmtime::Result<Result<String, Resource<NnError>>> {
        let result = self.nn.decode(&alias, ids, skip_special_tokens).await;
        self.answer(result)
    }

    async fn count(
        &mut self,
        alias: String,
        texts: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<u32>, Resource<NnError>>> {
        let result = self.nn.count(&alias, texts).await;
        self.answer(result)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(texts: &[&str]) -> Result<usize, NnError> {
        check_texts(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn texts_are_bounded() {
        assert_eq!(check(&["ab", "ü"]).unwrap(), 4);
        assert_eq!(check(&[]).unwrap(), 0);
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(
            check(&["a", &long]).unwrap_err().text,
            "text 1 has 1048577 bytes; at most 1048576 are taken in one text"
        );
        let full = "x".repeat(TEXT_BYTES_MAX);
        assert!(check(&[full.as_str(); 9]).unwrap_err().text.contains("9437184 bytes"));
        assert_eq!(check(&[""; TEXTS_MAX + 1]).unwrap_err().code, ErrorCode::TooLarge);
    }

    fn stop(cpu_nanos_left: u64) -> Stop {
        Stop {
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(60),
            cpu_since: thread_nanos(),
            cpu_nanos_left,
            cpu_ms_max: 7,
        }
    }

    #[test]
    fn work_stops_between_two_texts() {
        let texts = vec![String::new(); 5];
        let stop = stop(u64::MAX);
        let seen = std::cell::Cell::new(0);
        let result = each(&texts, &stop, |_| {
            seen.set(seen.get() + 1);
            if seen.get() == 2 {
                stop.cancel.cancel();
            }
            Ok(vec![()])
        });
        assert_eq!(result.unwrap_err().code, ErrorCode::RuntimeError);
        assert_eq!(seen.get(), 2);
    }

    #[test]
    fn cpu_time_is_a_limit() {
        let error = stop(0).check().unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
        assert!(error.text.contains("guest_cpu_ms_max = 7 ms"), "{}", error.text);
        assert!(stop(u64::MAX).check().is_ok());
    }
}
