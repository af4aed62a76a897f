//! Where chunks come from: one generation for each prompt, read as one sequence.

use mayfly_sdk::Error;
use mayfly_sdk::generation::{self, Chunk, Options, Prompt, Stream, Usage};

/// Chunks of one or more generations.
pub(crate) trait Source {
    /// The next chunk of any prompt with the prompt's place, none after the last one of all.
    fn next(&mut self) -> Result<Option<(usize, Chunk)>, Error>;
    /// What was counted so far, for all prompts together.
    fn usage(&self) -> Usage;
}

/// Generations that run at the host.
#[derive(Debug)]
pub(crate) struct Generations {
    first: Option<(usize, Chunk)>,
    /// Those that are not over, each with its prompt's place.
    running: Vec<(usize, Stream)>,
    /// Of those that are over.
    ended: Usage,
}

impl Generations {
    /// Starts them all and waits for the first chunk, so that what fails before any text has a status of its own.
    pub(crate) fn start(alias: &str, prompts: &[Prompt], options: &Options) -> Result<Self, Error> {
        let start = |(at, prompt)| match generation::start(alias, prompt, options) {
            Ok(stream) => Ok((at, stream)),
            Err(error) => Err(named(error.into())),
        };
        let running = prompts.iter().enumerate().map(start).collect::<Result<_, Error>>()?;
        let mut generations = Self { first: None, running, ended: Usage::default() };
        generations.first = generations.next()?;
        Ok(generations)
    }

    /// One of those that have something to say; the others get their turn as the host waits for slow readers only.
    fn ready(&self) -> usize {
        if self.running.len() < 2 {
            return 0;
        }
        let streams: Vec<&Stream> = self.running.iter().map(|(_, stream)| stream).collect();
        generation::ready(&streams).first().copied().unwrap_or(0)
    }
}

impl Source for Generations {
    fn next(&mut self) -> Result<Option<(usize, Chunk)>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while !self.running.is_empty() {
            let (prompt, mut stream) = self.running.remove(self.ready());
            if let Some(chunk) = stream.next()? {
                // To the end, so that the others come first.
                self.running.push((prompt, stream));
                return Ok(Some((prompt, chunk)));
            }
            self.ended = sum(self.ended, stream.usage());
        }
        Ok(None)
    }

    fn usage(&self) -> Usage {
        self.running.iter().fold(self.ended, |all, (_, stream)| sum(all, stream.usage()))
    }
}

/// The host begins its text with the name of the option at fault, where there is one: "`logit_bias` is ..".
fn named(error: Error) -> Error {
    let name = error.message().strip_prefix('`').and_then(|text| text.split_once('`')).map(|(name, _)| name.to_owned());
    match name {
        Some(name) if error.status() == 400 => error.with_param(name),
        _ => error,
    }
}

fn sum(one: Usage, other: Usage) -> Usage {
    Usage {
        prompt_tokens: one.prompt_tokens + other.prompt_tokens,
        cached_tokens: one.cached_tokens + other.cached_tokens,
        completion_tokens: one.completion_tokens + other.completion_tokens,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! A source for the tests of the answers.
    use std::collections::VecDeque;

    use mayfly_sdk::generation::{Finish, Token, TopToken};

    use super::*;

    #[derive(Default)]
    pub(crate) struct Scripted(VecDeque<Result<(usize, Chunk), Error>>, Usage);

    impl Scripted {
        /// `text` of the choice `choice` of the prompt `prompt`, as one token.
        pub(crate) fn text(mut self, prompt: usize, choice: u32, text: &str) -> Self {
            self.1 = Usage { prompt_tokens: 5, cached_tokens: 2, completion_tokens: self.1.completion_tokens + 1 };
            let bytes = text.as_bytes().to_vec();
            let top = vec![TopToken { id: 1, bytes: bytes.clone(), logprob: -0.5 }];
            let tokens = vec![Token { id: 1, bytes, logprob: -0.5, top }];
            let chunk = Chunk { choice, text: text.to_owned(), tokens, finish: None, usage: self.1 };
            self.0.push_back(Ok((prompt, chunk)));
            self
        }

        pub(crate) fn end(mut self, prompt: usize, choice: u32, finish: Finish) -> Self {
            let finish = Some(finish);
            let chunk = Chunk { choice, text: String::new(), tokens: Vec::new(), finish, usage: self.1 };
            self.0.push_back(Ok((prompt, chunk)));
            self
        }

        pub(crate) fn failure(mut self, message: &str) -> Self {
            self.0.push_back(Err(Error::internal(message)));
            self
        }
    }

    impl Source for Scripted {
        fn next(&mut self) -> Result<Option<(usize, Chunk)>, Error> {
            self.0.pop_front().transpose()
        }

        fn usage(&self) -> Usage {
            self.1
        }
    }

    #[test]
    fn an_option_at_fault_is_named() {
        let param = |error: Error| named(error).param().map(str::to_owned);
        assert_eq!(param(Error::invalid("`logit_bias` is for the token 9; ..")).as_deref(), Some("logit_bias"));
        assert_eq!(param(Error::invalid("the JSON schema keyword `not` is not supported")), None);
        assert_eq!(param(Error::internal("`m` is broken")), None);
    }
}
