//! A generation that is read, as one may read it, and what was charged for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_inference::{
    Chunk, Constraint, Generation, GenerationAccount, GenerationError, GenerationOptions, GenerationRequest, Sampling,
};
use tokio_util::sync::CancellationToken;

use super::call::Asked;

/// How long a slow reader takes before it reads.
const SLOW: Duration = Duration::from_millis(40);
/// How long a worker has, once everybody has left, to be gone with what it was charged.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// Likeliest tokens where they are asked for.
const LIKELIEST: u32 = 3;

/// The account of one generation.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Charged>);

#[derive(Debug, Default, Clone)]
struct Charged {
    input: Option<(u32, u32)>,
    output: u64,
    ran: Duration,
    /// What an account must never see.
    broken: Option<&'static str>,
}

impl Account {
    fn charged(&self) -> MutexGuard<'_, Charged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GenerationAccount for Account {
    fn input(&self, fresh: u32, cached: u32) {
        let mut charged = self.charged();
        if charged.input.replace((fresh, cached)).is_some() {
            charged.broken = Some("an input that is charged twice");
        }
    }

    fn output(&self, tokens: u32) {
        let mut charged = self.charged();
        charged.output += u64::from(tokens);
        if charged.input.is_none() {
            charged.broken = Some("tokens that are charged before their input");
        }
    }

    fn ran(&self, time: Duration) {
        self.charged().ran += time;
    }
}

/// What `asked` is as a request.
pub(crate) fn request(
    asked: Asked,
    prompt: Vec<u32>,
    deadline: Instant,
    owner: u128,
    cancel: CancellationToken,
    account: Arc<Account>,
) -> GenerationRequest {
    let two = asked == Asked::Two;
    GenerationRequest {
        prompt,
        options: GenerationOptions {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: if two { 4 } else { 60 },
            stop: Vec::new(),
            ignore_eos: false,
            logprobs: two.then_some(LIKELIEST),
            constraint: (asked == Asked::Constrained).then_some(Constraint::JsonObject),
        },
        choices: if two { 2 } else { 1 },
        owner,
        reuse: two.then_some([7; 32]),
        deadline,
        cancel,
        account,
    }
}

/// One generation: what it may be, and what came of it.
#[derive(Debug)]
pub(crate) struct Reading {
    account: Arc<Account>,
    prompt: u32,
    most: u32,
    likeliest: Option<u32>,
    ended: Vec<bool>,
    read: u64,
    /// Everything was read, to a good end.
    whole: bool,
}

impl Reading {
    pub(crate) fn new(account: Arc<Account>, request: &GenerationRequest) -> Self {
        Self {
            account,
            prompt: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            most: request.options.max_tokens,
            likeliest: request.options.logprobs,
            ended: vec![false; request.choices as usize],
            read: 0,
            whole: false,
        }
    }

    /// Reads it in one of eight ways; gives how it ended.
    ///
    /// # Errors
    /// A rule that was broken.
    pub(crate) async fn read(
        &mut self,
        mut generation: Generation,
        how: u8,
        vocab: u32,
        deadline: Instant,
    ) -> Result<Result<&'static str, GenerationError>, String> {
        match how {
            3 => tokio::time::sleep(SLOW).await,
            4 => tokio::time::sleep_until(deadline.into()).await,
            _ => {}
        }
        let mut first = true;
        loop {
            let chunk = match generation.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            };
            self.check(&chunk, vocab)?;
            if std::mem::take(&mut first) {
                match how {
                    5 => generation.end_choice(0),
                    6 => generation.cancel(),
                    7 => return Ok(Ok("left")),
                    _ => {}
                }
            }
        }
        if !self.ended.iter().all(|ended| *ended) {
            return Err("a generation that ends before its choices".to_owned());
        }
        if generation.usage().completion_tokens != self.read {
            return Err(format!("{} tokens were read of {:?}", self.read, generation.usage()));
        }
        self.whole = true;
        Ok(Ok("generated"))
    }

    fn check(&mut self, chunk: &Chunk, vocab: u32) -> Result<(), String> {
        let ended = self.ended.get_mut(chunk.choice as usize).ok_or("a choice that nobody asked for")?;
        if *ended {
            return Err("more of a choice that has ended".to_owned());
        }
        *ended = chunk.finish.is_some();
        self.read += chunk.tokens.len() as u64;
        let likeliest = self.likeliest.unwrap_or_default() as usize;
        for token in &chunk.tokens {
            let all = token.top.iter().map(|top| (top.id, top.logprob)).chain([(token.id, token.logprob)]);
            if token.top.len() > likeliest || all.into_iter().any(|(id, logprob)| id >= vocab || !logprob.is_finite()) {
                return Err(format!("a token that cannot be\n{token:?}"));
            }
        }
        let charged = self.account.charged().output;
        if charged < self.read || chunk.usage.completion_tokens > charged {
            return Err(format!("{} tokens are read, {charged} are charged", self.read));
        }
        Ok(())
    }

    /// Once nobody has anything to do with it: the account was let go, and has what it should.
    pub(crate) fn check_settled(&self) -> Result<(), String> {
        let begin = Instant::now();
        while Arc::strong_count(&self.account) > 1 {
            if begin.elapsed() > SETTLED_WITHIN {
                return Err("an account that is never let go".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let charged = self.account.charged().clone();
        if let Some(broken) = charged.broken {
            return Err(broken.to_owned());
        }
        let input = charged.input.map_or(0, |(fresh, cached)| u64::from(fresh) + u64::from(cached));
        let most = u64::from(self.most) * self.ended.len() as u64;
        let good = (charged.input.is_none() || input == u64::from(self.prompt))
            && charged.output <= most
            && charged.output >= self.read
            && (!self.whole || charged.output == self.read)
            && charged.ran <= Duration::from_secs(60);
        if good { Ok(()) } else { Err(format!("a charge that cannot be\n{charged:?} for {self:?}")) }
    }
}
