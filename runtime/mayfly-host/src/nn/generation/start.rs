//! Starting a generation: everything that can be refused is refused before anything is held, and everything is held
//! before anything runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_inference::{DecoderInfo, GenerationRequest};

use super::account::{HeldAccount, most};
use super::bindings::{Error, Options, Prompt};
use super::errors::invalid;
use super::filtered::Filtered;
use super::options;
use super::stream::HostStream;
use crate::nn::NnState;
use crate::{Grant, Place};

/// Generations that one instance may have open at once.
const STREAMS_MAX: usize = 64;

/// A generation ends this long before its call's deadline (or after nine tenths of the time that is left), so that its
/// handler can still say so in a stream that has begun.
const ENDS_BEFORE: Duration = Duration::from_millis(500);

impl NnState {
    /// Starts a generation on a granted model.
    pub(super) async fn start(&self, alias: &str, prompt: Prompt, options: Options) -> Result<HostStream, Error> {
        self.open()?;
        let grant = self.grant(alias)?;
        let decoder = decoder(alias, grant)?;
        let place = self.place()?;
        let wanted = options::check(options, decoder)?;
        let choices = wanted.choices;
        let prompt = self.prompt_tokens(grant, decoder, prompt).await?;
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let options = wanted.fit(prompt_tokens, decoder.context)?;

        let hold = self.ask(&most(grant.model, prompt_tokens, choices, options.max_tokens)).await??;
        self.open()?;
        let request = GenerationRequest {
            prompt,
            options,
            choices,
            owner: self.asker.owner,
            reuse: self.asker.reuse,
            deadline: self.deadline - left_for_the_handler(self.deadline.saturating_duration_since(Instant::now())),
            cancel: self.cancel.clone(),
            account: Arc::new(HeldAccount::new(hold, grant.model)),
        };
        let apart = grant.place == Place::Apart;
        let was_loaded = match apart {
            true => self.inference.is_loaded_apart(self.asker.owner, grant.package.digest(), grant.device),
            false => self.inference.is_loaded(grant.package.digest(), grant.device),
        };
        let began = Instant::now();
        let (package, device) = (&grant.package, grant.device);
        let start = async {
            match apart {
                true => self.inference.generate_apart(package, device, request).await,
                false => self.inference.generate(package, device, request).await,
            }
        };
        let started = self.within_call(start).await;
        if !was_loaded {
            self.clock.add(|timings| *timings.model_load.get_or_insert_default() += began.elapsed());
        }
        let generation = self.told(started?)?;
        if apart {
            self.worker_works();
        }
        let filtered = self.grants.filter.as_deref().map(|filter| Filtered::new(filter, choices));
        Ok(HostStream::new(generation, filtered, self.cancel.clone(), self.deadline, place))
    }

    /// How many tokens `prompt` has.
    pub(super) async fn count_prompt(&self, alias: &str, prompt: Prompt) -> Result<u32, Error> {
        self.open()?;
        let grant = self.grant(alias)?;
        let tokens = self.prompt_tokens(grant, decoder(alias, grant)?, prompt).await?;
        Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
    }

    /// A place for one more stream; it is free again when the value is dropped.
    fn place(&self) -> Result<Arc<()>, Error> {
        // One count is this state's own.
        if Arc::strong_count(&self.streams) > STREAMS_MAX {
            return Err(invalid(format!(
                "the handler has {STREAMS_MAX} generations open and may have no more; drop those it no longer needs"
            )));
        }
        Ok(Arc::clone(&self.streams))
    }
}

fn left_for_the_handler(left: Duration) -> Duration {
    ENDS_BEFORE.min(left / 10)
}

fn decoder<'a>(alias: &str, grant: &'a Grant) -> Result<&'a DecoderInfo, Error> {
    let info = grant.package.info();
    info.decoder.as_ref().ok_or_else(|| {
        let why = info.properties.iter().find(|(name, _)| name == "generation").map(|(_, why)| why.as_str());
        let alias: String = alias.chars().filter(|c| !c.is_control()).take(100).collect();
        let why = why.unwrap_or("it is not a decoder with attention state that the host knows");
        invalid(format!("the model `{alias}` cannot generate text: {why}"))
    })
}
