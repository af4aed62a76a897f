//! Text against what `tokenizers` decodes, and every way to cut it into pieces.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use tokenizers::Tokenizer;

use super::samples::{byte_level, metaspace, tokenizer};
use super::*;

fn table(tokenizer: &Tokenizer) -> Arc<TokenTable> {
    let vocab = u32::try_from(tokenizer.get_vocab_size(true)).unwrap();
    Arc::new(TokenTable::new(tokenizer, vocab).unwrap())
}

fn text_of(table: &Arc<TokenTable>, tokens: &[u32]) -> String {
    let mut stream = TextStream::new(Arc::clone(table), &[]);
    let mut text: String = tokens.iter().map(|token| stream.push(*token)).collect();
    text.push_str(&stream.finish());
    text
}

fn pieces() -> Tokenizer {
    byte_level(&["hello".as_bytes(), " world".as_bytes(), "é".as_bytes(), &[0xf0, 0x9f], &[0x98, 0x80], &[0x80, 0x41]])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn byte_level_text_is_what_tokenizers_decodes(
        tokens in prop::collection::vec(prop_oneof![0_u32..265, 0x70_u32..0x80, 0xe0_u32..0xf5, 256_u32..265], 0..40),
    ) {
        let tokenizer = pieces();
        let expect = tokenizer.decode(&tokens, true).unwrap();
        prop_assert_eq!(text_of(&table(&tokenizer), &tokens), expect);
    }

    #[test]
    fn metaspace_text_continues_what_tokenizers_decodes(
        parts in prop::collection::vec(
            prop_oneof![Just("▁"), Just("▁the"), Just("x"), Just("é"), Just("😀"), Just("</s>")], 0..20),
    ) {
        let tokenizer = metaspace(&["▁", "▁the", "x", "▁é"]);
        // What is no token of its own is written in bytes.
        let tokens: Vec<u32> = parts
            .iter()
            .flat_map(|part| match tokenizer.token_to_id(part) {
                Some(token) => vec![token],
                None => part.bytes().map(u32::from).collect(),
            })
            .collect();
        let with_prompt = [&[u32::from(b'P')], tokens.as_slice()].concat();
        let expect = tokenizer.decode(&with_prompt, true).unwrap();
        prop_assert_eq!(format!("P{}", text_of(&table(&tokenizer), &tokens)), expect);
    }
}

#[test]
fn each_token_has_its_own_bytes() {
    let bytes = table(&pieces());
    assert_eq!(bytes.len(), 265);
    for byte in 0..=255_u8 {
        assert_eq!(bytes.text(u32::from(byte)), [byte]);
    }
    assert_eq!(bytes.text(256), b"hello");
    assert_eq!(bytes.text(257), b" world");
    assert_eq!(bytes.text(259), [0xf0, 0x9f]);
    assert_eq!(bytes.text(262), b"<tool call>", "an added token that is text");
    assert_eq!((bytes.text(263), bytes.name(263), bytes.is_special(263)), (&b""[..], &b"<|im_start|>"[..], true));
    assert_eq!((bytes.text(265), bytes.name(265), bytes.is_special(265)), (&b""[..], &b""[..], false), "unknown");

    let mixed = table(&metaspace(&["▁the"]));
    assert_eq!(mixed.text(0xff), [0xff]);
    assert_eq!(mixed.text(256), b" the");
    assert_eq!(mixed.text(257), b"");

    let wider = TokenTable::new(&pieces(), 300).unwrap();
    assert_eq!((wider.len(), wider.text(299)), (300, &b""[..]), "logits are often wider than the vocabulary");
}

#[test]
fn other_decoders_are_refused_by_name() {
    let names = ["a".to_owned()];
    let check = |decoder, expect: &str| {
        let refused = TokenTable::new(&tokenizer(&names, &[], &[], &decoder), 1).unwrap_err();
        assert!(refused.contains(expect), "{refused}");
    };
    check(json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "`WordPiece`");
    check(json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": " "}), "regular expression");
    check(json!(null), "no decoder");
    let plain = json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": true});
    assert!(TokenTable::new(&tokenizer(&names, &[], &[], &plain), 1).is_ok());
}

/// Every way to cut `bytes` into three tokens, some of them empty.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = [&[u8]; 3]> {
    (0..=bytes.len())
        .flat_map(move |first| (first..=bytes.len()).map(move |second| (first, second)))
        .map(|(first, second)| [&bytes[..first], &bytes[first..second], &bytes[second..]])
}

#[test]
fn half_a_character_is_never_given_however_it_is_cut() {
    let text = "aé€😀\u{10ffff}z";
    for tokens in cuts(text.as_bytes()) {
        let mut stream = TextStream::new(Arc::new(TokenTable::of(&tokens)), &[]);
        let mut given = String::new();
        for (count, token) in (0..3).enumerate() {
            given.push_str(&stream.push(token));
            let fed = tokens[..=count].concat();
            let whole = match std::str::from_utf8(&fed) {
                Ok(whole) => whole,
                Err(error) => std::str::from_utf8(&fed[..error.valid_up_to()]).unwrap(),
            };
            assert_eq!(given, whole, "whole characters come at once, others wait");
            assert_eq!(stream.reach(), whole.len() + usize::from(fed.len() > whole.len()));
        }
        assert_eq!((given.as_str(), stream.finish().as_str()), (text, ""));
    }
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters_however_they_are_cut() {
    for bytes in [
        &b"\xff\xfe"[..],
        b"a\xe2\x82b",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xf0\x9f\xf0\x9f\x98\x80\xc3",
        b"\xed\xa0\x80x",
        b"\xc0\xaf\x80\x80ok",
        b"\xf5\x80\x80\x80",
    ] {
        for tokens in cuts(bytes) {
            assert_eq!(text_of(&Arc::new(TokenTable::of(&tokens)), &[0, 1, 2]), String::from_utf8_lossy(bytes));
        }
    }
}

/// The text before the stop string that ends first, and whether there is one.
fn cut_at_stop<'a>(text: &'a str, stops: &[String]) -> (&'a str, bool) {
    for end in 1..=text.len() {
        let complete = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
        if let Some(longest) = complete.map(String::len).max() {
            return (&text[..end - longest], true);
        }
    }
    (text, false)
}

/// Gives `text` cut in every way, and looks after each token that nothing a stop string may take away was given.
fn check_stops(text: &str, stops: &[&str]) {
    let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let (expect, stopped) = cut_at_stop(text, &stops);
    for tokens in cuts(text.as_bytes()) {
        let mut stream = TextStream::new(Arc::new(TokenTable::of(&tokens)), &stops);
        let mut given = String::new();
        for (count, token) in (0..3).enumerate() {
            given.push_str(&stream.push(token));
            let fed = tokens[..=count].concat();
            let begun = stops.iter().flat_map(|stop| (1..stop.len()).map(move |length| &stop.as_bytes()[..length]));
            let open = begun.filter(|begun| fed.ends_with(begun)).map(<[u8]>::len).max().unwrap_or(0);
            assert!(stream.stopped() || given.len() <= fed.len() - open, "{given:?} of {tokens:?} came too early");
        }
        given.push_str(&stream.finish());
        assert_eq!((given.as_str(), stream.stopped()), (expect, stopped), "{tokens:?} until {stops:?}");
        if stopped {
            assert_eq!((stream.push(0), stream.finish()), (String::new(), String::new()), "nothing after a stop");
        }
    }
}

#[test]
fn stop_strings_are_found_however_they_are_cut() {
    check_stops("The end. Or not.", &["end."]);
    check_stops("ababac!", &["abac"]);
    check_stops("aaaaab", &["aab"]);
    check_stops("say abc now", &["abcd", "b"]);
    check_stops("say abc now", &["abc", "c"]);
    check_stops("xéy€z", &["é", "€z"]);
    check_stops("half 😀", &["😀😀"]);
    check_stops("\n\nUser: hi", &["\nUser:", "User: "]);
    check_stops("stop", &["stop"]);
    check_stops("sto", &["stop"]);
    check_stops("nothing here", &[]);
}

proptest! {
    #[test]
    fn any_stop_strings_are_found_however_they_are_cut(
        text in "[abé]{0,12}",
        stops in prop::collection::vec("[abé]{1,4}", 0..4),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        check_stops(&text, &stops);
    }
}

#[test]
fn an_end_inside_a_character_can_still_complete_a_stop() {
    let mut stream = TextStream::new(Arc::new(TokenTable::of(&[b"a\xe2\x82"])), &["\u{fffd}".to_owned()]);
    assert_eq!(stream.push(0), "a");
    assert_eq!((stream.finish(), stream.stopped()), (String::new(), true));
}
