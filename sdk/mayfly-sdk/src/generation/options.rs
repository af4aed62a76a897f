//! What to generate, and how.

use crate::bindings::mayfly::inference::generation as wit;

/// What the model goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text as it is, with the model's own first tokens.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<u32>),
    /// JSON for the model's own chat template:
    /// `{"messages": [...], "tools": [...]?, "chat_template_kwargs": {...}?}`.
    Chat(String),
}

impl Prompt {
    pub(crate) fn to_wit(&self) -> wit::Prompt {
        match self {
            Self::Text(text) => wit::Prompt::Text(text.clone()),
            Self::Tokens(ids) => wit::Prompt::Tokens(ids.clone()),
            Self::Chat(json) => wit::Prompt::Chat(json.clone()),
        }
    }
}

/// What the text must be. Tokens that would break it are not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that this JSON Schema accepts.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A Lark grammar.
    Grammar(String),
}

/// How to generate. What is `None` takes the model's own default, if it has one, else it is off.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// New tokens of each choice, stop tokens included; `None` takes what the context leaves, up to the host's limit.
    pub max_tokens: Option<u32>,
    /// 0 always takes the likeliest token.
    pub temperature: Option<f32>,
    /// Samples from the likeliest tokens that together have this probability: above 0, at most 1.
    pub top_p: Option<f32>,
    /// Samples from this many of the likeliest tokens; 0 is all.
    pub top_k: Option<u32>,
    /// Leaves out tokens less likely than this share of the likeliest one: 0 to 1.
    pub min_p: Option<f32>,
    /// The same seed gives the same tokens; `None` takes a new one.
    pub seed: Option<u64>,
    /// Taken from the logit of a token that was generated already: -2 to 2.
    pub presence_penalty: Option<f32>,
    /// Taken from the logit of a token for each time it was generated: -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// Makes tokens of the prompt and of the text so far less likely; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Texts that end a choice; they are not given out.
    pub stop: Vec<String>,
    /// How many texts for the one prompt, at least 1.
    pub choices: u32,
    /// Give the log probability of each token, and that of so many of the likeliest ones beside it.
    pub logprobs: Option<u32>,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
    /// What the text must be.
    pub constraint: Option<Constraint>,
}

impl Default for Options {
    /// One choice, everything else as the model has it.
    fn default() -> Self {
        Self {
            max_tokens: None,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            seed: None,
            presence_penalty: None,
            frequency_penalty: None,
            repetition_penalty: None,
            logit_bias: Vec::new(),
            stop: Vec::new(),
            choices: 1,
            logprobs: None,
            ignore_eos: false,
            constraint: None,
        }
    }
}

impl Options {
    pub(crate) fn to_wit(&self) -> wit::Options {
        let constraint = self.constraint.clone().map(|constraint| match constraint {
            Constraint::JsonObject => wit::Constraint::JsonObject,
            Constraint::JsonSchema(schema) => wit::Constraint::JsonSchema(schema),
            Constraint::Regex(pattern) => wit::Constraint::Regex(pattern),
            Constraint::Choice(texts) => wit::Constraint::Choice(texts),
            Constraint::Grammar(grammar) => wit::Constraint::Grammar(grammar),
        });
        wit::Options {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            seed: self.seed,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            logit_bias: self.logit_bias.clone(),
            stop: self.stop.clone(),
            choices: self.choices,
            logprobs: self.logprobs,
            ignore_eos: self.ignore_eos,
            constraint,
        }
    }
}
