//! Sampling options, the same for all endpoints: OpenAI's names and ranges, and vLLM's names for what OpenAI lacks.

use mayfly_sdk::Error;
use mayfly_sdk::generation::Options;
use serde_json::Value;

use crate::fields::{Fields, unfit};

/// Choices of one request, all prompts together.
pub(crate) const CHOICES_MAX: u32 = 128;
/// Texts in `stop`. OpenAI takes 4; agents send more.
const STOPS_MAX: usize = 16;
const LOGIT_BIASES_MAX: usize = 1024;

/// What no endpoint does, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("use_beam_search", "ask for several choices with `n`"),
    ("min_tokens", "leave it out"),
    ("stop_token_ids", "give the text in `stop`"),
    ("prompt_logprobs", "leave it out"),
    ("bad_words", "use `logit_bias`"),
    ("logits_processors", "leave it out"),
];

/// Takes the sampling options; the number of tokens, log probabilities and constraints are the endpoint's to set.
pub(crate) fn options(fields: &mut Fields) -> Result<Options, Error> {
    fields.refuse(REFUSED)?;
    Ok(Options {
        temperature: fields.number("temperature", 0.0..=2.0)?,
        // OpenAI takes 0 for "only the likeliest".
        top_p: fields.number("top_p", 0.0..=1.0)?.map(|share| share.max(f32::MIN_POSITIVE)),
        top_k: top_k(fields)?,
        min_p: fields.number("min_p", 0.0..=1.0)?,
        seed: seed(fields)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.01..=10.0)?,
        logit_bias: logit_bias(fields)?,
        stop: stop(fields)?,
        choices: fields.count("n", 1..=CHOICES_MAX)?.unwrap_or(1),
        ignore_eos: fields.flag("ignore_eos")?,
        ..Options::default()
    })
}

/// -1 and 0 are "all", as at vLLM.
fn top_k(fields: &mut Fields) -> Result<Option<u32>, Error> {
    let Some(value) = fields.take("top_k") else { return Ok(None) };
    if value.as_i64() == Some(-1) {
        return Ok(Some(0));
    }
    let k = value.as_u64().and_then(|k| u32::try_from(k).ok());
    k.map(Some).ok_or_else(|| unfit("top_k", &value, "a whole number from 1 on, or 0 for all tokens"))
}

fn seed(fields: &mut Fields) -> Result<Option<u64>, Error> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.map(Some).ok_or_else(|| unfit("seed", &value, "a whole number of 64 bits"))
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, Error> {
    let wanted = "a text or a list of texts, none empty";
    let Some(value) = fields.take("stop") else { return Ok(Vec::new()) };
    let items = match value {
        Value::Array(items) => items,
        text => vec![text],
    };
    if items.len() > STOPS_MAX {
        let message = format!("`stop` has {} texts; give at most {STOPS_MAX}", items.len());
        return Err(Error::invalid(message).with_param("stop"));
    }
    let text = |item| match item {
        Value::String(text) if !text.is_empty() => Ok(text),
        other => Err(unfit("stop", &other, wanted)),
    };
    items.into_iter().map(text).collect()
}

/// A map from token ids, which JSON writes as text, to what is added to their logits.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, Error> {
    const NAME: &str = "logit_bias";
    let map = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(unfit(NAME, &other, "a map from token ids to numbers")),
    };
    if map.len() > LOGIT_BIASES_MAX {
        let message = format!("`{NAME}` has {} tokens; give at most {LOGIT_BIASES_MAX}", map.len());
        return Err(Error::invalid(message).with_param(NAME));
    }
    let entry = |(id, bias): (String, Value)| {
        let at = || format!("{NAME}.{}", id.chars().take(20).collect::<String>());
        let token = id.parse().map_err(|_| unfit(&at(), &bias, "token ids as the map's keys"))?;
        match bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)) {
            #[expect(clippy::cast_possible_truncation, reason = "its range is small")]
            Some(bias) => Ok((token, bias as f32)),
            None => Err(unfit(&at(), &bias, "a number from -100 to 100")),
        }
    };
    map.into_iter().map(entry).collect()
}

/// Takes `stream_options`.
pub(crate) fn include_usage(fields: &mut Fields) -> Result<bool, Error> {
    match fields.take("stream_options") {
        None => Ok(false),
        Some(Value::Object(options)) => match options.get("include_usage") {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(include)) => Ok(*include),
            Some(other) => Err(unfit("stream_options.include_usage", other, "`true` or `false`")),
        },
        Some(other) => Err(unfit("stream_options", &other, "an object with `include_usage`")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(json: &str) -> Result<Options, Error> {
        options(&mut Fields::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_left_out_is_the_model_s_to_say() {
        assert_eq!(read("{}").unwrap(), Options::default());
    }

    #[test]
    fn everything_at_once() {
        let options = read(
            r#"{"temperature":0,"top_p":0.5,"top_k":40,"min_p":0.1,"seed":7,"presence_penalty":-2,
                "frequency_penalty":2,"repetition_penalty":1.1,"logit_bias":{"50256":-100,"7":1.5},"stop":["a","b"],
                "n":3,"ignore_eos":true}"#,
        );
        let expect = Options {
            temperature: Some(0.0),
            top_p: Some(0.5),
            top_k: Some(40),
            min_p: Some(0.1),
            seed: Some(7),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(2.0),
            repetition_penalty: Some(1.1),
            logit_bias: vec![(50256, -100.0), (7, 1.5)],
            stop: vec!["a".to_owned(), "b".to_owned()],
            choices: 3,
            ignore_eos: true,
            ..Options::default()
        };
        assert_eq!(options.unwrap(), expect);
    }

    #[test]
    fn other_ways_to_say_it() {
        assert_eq!(read(r#"{"top_k":-1}"#).unwrap().top_k, Some(0));
        assert_eq!(read(r#"{"stop":"END"}"#).unwrap().stop, ["END"]);
        assert_eq!(read(r#"{"stop":[]}"#).unwrap().stop, Vec::<String>::new());
        assert_eq!(read(r#"{"seed":-1}"#).unwrap().seed, Some(u64::MAX));
        assert!(read(r#"{"top_p":0}"#).unwrap().top_p.unwrap() > 0.0);
    }

    #[test]
    fn bad_options_are_named() {
        let check = |json: &str, param: &str| {
            let error = read(json).unwrap_err();
            assert_eq!((error.status(), error.param()), (400, Some(param)), "{json}: {error}");
        };
        check(r#"{"temperature":2.1}"#, "temperature");
        check(r#"{"temperature":"NaN"}"#, "temperature");
        check(r#"{"top_p":-0.1}"#, "top_p");
        check(r#"{"top_k":-2}"#, "top_k");
        check(r#"{"seed":1.5}"#, "seed");
        check(r#"{"n":0}"#, "n");
        check(r#"{"n":129}"#, "n");
        check(r#"{"stop":""}"#, "stop");
        check(r#"{"stop":["a",""]}"#, "stop");
        check(r#"{"stop":[1]}"#, "stop");
        check(&format!(r#"{{"stop":{:?}}}"#, vec!["a"; 17]), "stop");
        check(r#"{"logit_bias":[1]}"#, "logit_bias");
        check(r#"{"logit_bias":{"cat":1}}"#, "logit_bias.cat");
        check(r#"{"logit_bias":{"-1":1}}"#, "logit_bias.-1");
        check(r#"{"logit_bias":{"1":101}}"#, "logit_bias.1");
        check(r#"{"logit_bias":{"1":"a"}}"#, "logit_bias.1");
        check(r#"{"repetition_penalty":0}"#, "repetition_penalty");
        check(r#"{"min_tokens":4}"#, "min_tokens");
    }
}
