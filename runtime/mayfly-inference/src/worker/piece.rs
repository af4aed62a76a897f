//! Tokens of one choice on their way from a worker, and their text.
//!
//! What they are is in the message; their bytes follow it: the text, then those of each token, each with those of the
//! likeliest at its place.

use serde::{Deserialize, Serialize};

use super::message::{FromWorker, PacketError, encode};
use crate::{Chunk, ChunkToken, Finish, TopToken};

/// A piece of one choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Piece {
    pub(super) choice: u32,
    /// Bytes of the text.
    pub(super) text: u32,
    pub(super) tokens: Vec<PieceToken>,
    pub(super) finish: Option<Finish>,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PieceToken {
    pub(super) id: u32,
    /// How many it has.
    pub(super) bytes: u32,
    /// As [`ChunkToken::text_end`].
    pub(super) text_end: u64,
    pub(super) logprob: f32,
    /// Id, bytes, log probability.
    pub(super) top: Vec<(u32, u32, f32)>,
}

/// `chunk` as packets of the run, as few as will do.
///
/// # Errors
/// [`PacketError`] if not even one token fits into one.
pub(super) fn packets(run: u64, chunk: &Chunk) -> Result<Vec<Vec<u8>>, PacketError> {
    let whole = packet(run, chunk, &chunk.tokens, true);
    if whole.is_ok() || chunk.tokens.len() < 2 {
        return Ok(vec![whole?]);
    }
    // Text comes with the last one: no text is ahead of its tokens.
    let (last, before) = chunk.tokens.split_last().ok_or(PacketError::Malformed)?;
    let mut packets = Vec::with_capacity(chunk.tokens.len());
    for token in before {
        packets.push(packet(run, chunk, std::slice::from_ref(token), false)?);
    }
    packets.push(packet(run, chunk, std::slice::from_ref(last), true)?);
    Ok(packets)
}

fn packet(run: u64, chunk: &Chunk, tokens: &[ChunkToken], last: bool) -> Result<Vec<u8>, PacketError> {
    let text = if last { chunk.text.as_bytes() } else { &[] };
    let mut data = vec![text];
    for token in tokens {
        data.push(&token.bytes);
        data.extend(token.top.iter().map(|top| &top.bytes[..]));
    }
    let piece = Piece {
        choice: chunk.choice,
        text: count(text),
        tokens: tokens.iter().map(said).collect(),
        finish: chunk.finish.filter(|_| last),
    };
    encode(&FromWorker::Piece { run, piece }, &data)
}

fn said(token: &ChunkToken) -> PieceToken {
    PieceToken {
        id: token.id,
        bytes: count(&token.bytes),
        text_end: token.text_end as u64,
        logprob: finite(token.logprob),
        top: token.top.iter().map(|top| (top.id, count(&top.bytes), finite(top.logprob))).collect(),
    }
}

fn count(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// JSON has no infinity, and what is that unlikely is as good as never.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { f32::MIN }
}

/// The tokens that `piece` describes, and its text, out of its data; none if the data is anything else.
pub(super) fn read(piece: &Piece, mut data: &[u8]) -> Option<(String, Vec<ChunkToken>)> {
    let mut take = |bytes: u32| {
        let (front, rest) = data.split_at_checked(usize::try_from(bytes).ok()?)?;
        data = rest;
        Some(front.to_vec())
    };
    let text = String::from_utf8(take(piece.text)?).ok()?;
    let mut tokens = Vec::with_capacity(piece.tokens.len());
    for PieceToken { id, bytes, text_end, logprob, top } in &piece.tokens {
        let bytes = take(*bytes)?;
        let top = top.iter().map(|&(id, bytes, logprob)| Some(TopToken { id, bytes: take(bytes)?, logprob }));
        let top = top.collect::<Option<Vec<_>>>()?;
        tokens.push(ChunkToken { id: *id, bytes, text_end: usize::try_from(*text_end).ok()?, logprob: *logprob, top });
    }
    data.is_empty().then_some((text, tokens))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::GenerationUsage;
    use crate::worker::message::{PACKET_BYTES_MAX, decode};

    fn token(id: u32, bytes: &[u8]) -> ChunkToken {
        let top = vec![TopToken { id: id + 1, bytes: b"xy".to_vec(), logprob: -0.1 }];
        ChunkToken { id, bytes: bytes.to_vec(), text_end: id as usize, logprob: -0.3, top }
    }

    fn chunk(text: &str, tokens: Vec<ChunkToken>) -> Chunk {
        let usage = GenerationUsage::default();
        Chunk { choice: 3, text: text.to_owned(), tokens, finish: Some(Finish::Stop), usage }
    }

    fn heard(packets: &[Vec<u8>]) -> Vec<(Piece, String, Vec<ChunkToken>)> {
        let one = |packet: &Vec<u8>| match decode::<FromWorker>(packet).unwrap() {
            (FromWorker::Piece { run: 7, piece }, data) => {
                let (text, tokens) = read(&piece, data).unwrap();
                (piece, text, tokens)
            }
            other => panic!("{other:?}"),
        };
        packets.iter().map(one).collect()
    }

    #[test]
    fn a_chunk_arrives_as_it_was() {
        let said = chunk("hü", vec![token(1, b"h"), token(2, &[0xc3]), token(3, &[0xbc])]);
        let packets = packets(7, &said).unwrap();
        let [(piece, text, tokens)] = &heard(&packets)[..] else { panic!("one packet") };
        assert_eq!((text, tokens, piece.finish, piece.choice), (&said.text, &said.tokens, said.finish, 3));
    }

    #[test]
    fn what_is_too_long_for_one_packet_comes_in_several_and_text_last() {
        let long = vec![b'x'; PACKET_BYTES_MAX / 2];
        let said = chunk("text", vec![token(1, &long), token(2, &long), token(3, b"z")]);
        let all = heard(&packets(7, &said).unwrap());
        assert_eq!(all.len(), 3);
        assert_eq!(all.iter().flat_map(|(_, _, tokens)| tokens.clone()).collect::<Vec<_>>(), said.tokens);
        let ends: Vec<_> = all.iter().map(|(piece, text, _)| (text.as_str(), piece.finish)).collect();
        assert_eq!(ends, [("", None), ("", None), ("text", Some(Finish::Stop))]);
        let huge = chunk("", vec![token(1, &vec![0; PACKET_BYTES_MAX])]);
        assert!(packets(7, &huge).is_err());
    }

    #[test]
    fn data_that_is_not_as_described_is_nothing() {
        let said = chunk("ab", vec![token(1, b"ab")]);
        let packets = packets(7, &said).unwrap();
        let (message, data) = decode::<FromWorker>(&packets[0]).unwrap();
        let FromWorker::Piece { piece, .. } = message else { panic!() };
        assert!(read(&piece, data).is_some());
        assert!(read(&piece, &data[1..]).is_none());
        assert!(read(&piece, &[data, b"x"].concat()).is_none());
        assert!(read(&piece, &[&[0xff], &data[1..]].concat()).is_none(), "no UTF-8");
    }

    #[test]
    fn what_never_happens_is_a_number_too() {
        let mut said = chunk("", vec![token(1, b"")]);
        said.tokens[0].logprob = f32::NEG_INFINITY;
        let all = heard(&packets(7, &said).unwrap());
        assert_eq!(all[0].2[0].logprob, f32::MIN);
    }
}
