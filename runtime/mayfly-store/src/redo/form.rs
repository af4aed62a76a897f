//! An append as bytes and back.
//!
//! Whole numbers are LEB128, signed ones zigzag; words are the numbers of `journal/words.rs`; ids are their 16 bytes. Who
//! calls what is written once for rows of one call, which an append usually has.

use std::sync::Arc;

use mayfly_ledger::{AnswerScope, Append, Call, KeptAnswer, Row, RowLine};
use mayfly_types::{DeploymentId, KeyId, ModelId, ProjectId, RequestId, RevisionId, TenantId};

use crate::DbError;
use crate::journal::words;

/// Flags of a call: what differs from the usual.
const PARENT: u8 = 1;
const ROOT: u8 = 2;
const ATTEMPT: u8 = 4;
const PAYER: u8 = 8;
const SERVED: u8 = 16;
const END_USER: u8 = 32;
/// Flags of a row.
const NEW_CALL: u8 = 1;
const OUTCOME: u8 = 2;
const COLD: u8 = 4;
const DURATION: u8 = 8;
/// Flags of a line.
const MODEL: u8 = 1;
const PRICE: u8 = 2;
const AMOUNT: u8 = 4;

/// Writes `append` to the end of `out`.
///
/// # Errors
/// A word that has no number.
pub(crate) fn write(append: &Append, out: &mut Vec<u8>) -> Result<(), DbError> {
    number(out, append.rows.len() as u64);
    let mut of: Option<&Arc<Call>> = None;
    for row in &append.rows {
        let new = !of.is_some_and(|of| Arc::ptr_eq(of, &row.call) || of == &row.call);
        write_row(row, new, out)?;
        of = Some(&row.call);
    }
    match &append.answer {
        None => out.push(0),
        Some(answer) => {
            out.push(if answer.body.is_some() { 2 } else { 1 });
            write_answer(answer, out);
        }
    }
    Ok(())
}

/// Reads what [`write`] wrote, all of it.
pub(crate) fn read(bytes: &[u8]) -> Result<Append, DbError> {
    let mut from = Bytes(bytes);
    let append = read_append(&mut from).filter(|_append| from.0.is_empty());
    append.ok_or_else(|| DbError::damaged("append", "it cannot be read"))
}

fn write_row(row: &Row, new_call: bool, out: &mut Vec<u8>) -> Result<(), DbError> {
    let flags = flag(new_call, NEW_CALL)
        | flag(row.outcome.is_some(), OUTCOME)
        | flag(row.cold.is_some(), COLD)
        | flag(row.duration_micros.is_some(), DURATION);
    out.push(flags);
    if new_call {
        write_call(&row.call, out);
    }
    number(out, unsigned(words::kind(row.kind)));
    signed(out, row.at);
    if let Some(outcome) = row.outcome {
        number(out, unsigned(words::outcome(outcome)));
    }
    number(out, row.status.into());
    if let Some(cold) = &row.cold {
        number(out, unsigned(words::cold(cold)?));
    }
    if let Some(duration) = row.duration_micros {
        signed(out, duration);
    }
    number(out, row.lines.len() as u64);
    for line in &row.lines {
        out.push(
            flag(line.model.is_some(), MODEL) | flag(line.price.is_some(), PRICE) | flag(line.amount.is_some(), AMOUNT),
        );
        number(out, unsigned(words::meter(line.meter)));
        if let Some(model) = line.model {
            out.extend_from_slice(&model.to_bytes());
        }
        signed(out, line.quantity);
        for value in [line.price, line.amount].into_iter().flatten() {
            signed(out, value);
        }
    }
    Ok(())
}

fn write_call(call: &Call, out: &mut Vec<u8>) {
    out.push(
        flag(call.parent.is_some(), PARENT)
            | flag(call.root != call.id, ROOT)
            | flag(call.attempt != 1, ATTEMPT)
            | flag(call.payer != call.tenant, PAYER)
            | flag(call.served != call.requested, SERVED)
            | flag(call.end_user.is_some(), END_USER),
    );
    out.extend_from_slice(&call.id.to_bytes());
    out.extend_from_slice(&call.tenant.to_bytes());
    out.extend_from_slice(&call.project.to_bytes());
    out.extend_from_slice(&call.requested.to_bytes());
    out.extend_from_slice(&call.revision.to_bytes());
    out.extend_from_slice(&call.key.to_bytes());
    if let Some(parent) = call.parent {
        out.extend_from_slice(&parent.to_bytes());
    }
    if call.root != call.id {
        out.extend_from_slice(&call.root.to_bytes());
    }
    if call.attempt != 1 {
        number(out, call.attempt.into());
    }
    if call.payer != call.tenant {
        out.extend_from_slice(&call.payer.to_bytes());
    }
    if call.served != call.requested {
        out.extend_from_slice(&call.served.to_bytes());
    }
    if let Some(user) = &call.end_user {
        text(out, user.as_bytes());
    }
    text(out, call.deployment_name.as_str().as_bytes());
    number(out, unsigned(words::channel(call.channel)));
    number(out, unsigned(words::counted_by(call.counted_by)));
    signed(out, call.opened_at);
}

fn write_answer(answer: &KeptAnswer, out: &mut Vec<u8>) {
    out.extend_from_slice(&answer.scope.0);
    out.extend_from_slice(&answer.request);
    out.extend_from_slice(&answer.call.to_bytes());
    signed(out, answer.at);
    number(out, answer.status.into());
    number(out, answer.headers.len() as u64);
    for (name, value) in &answer.headers {
        text(out, name.as_bytes());
        text(out, value);
    }
    if let Some(body) = &answer.body {
        text(out, body);
    }
}

fn read_append(from: &mut Bytes<'_>) -> Option<Append> {
    let count = from.count()?;
    let mut append = Append { rows: Vec::with_capacity(count), answer: None };
    let mut of = None;
    for _ in 0..count {
        append.rows.push(read_row(from, &mut of)?);
    }
    append.answer = match from.byte()? {
        0 => None,
        with @ (1 | 2) => Some(read_answer(from, with == 2)?),
        _ => return None,
    };
    Some(append)
}

fn read_row(from: &mut Bytes<'_>, of: &mut Option<Arc<Call>>) -> Option<Row> {
    let flags = from.byte()?;
    if flags & NEW_CALL != 0 {
        *of = Some(Arc::new(read_call(from)?));
    }
    let mut row = Row {
        kind: words::kind_of(from.word()?).ok()?,
        call: of.clone()?,
        at: from.signed()?,
        lines: Vec::new(),
        outcome: None,
        status: 0,
        cold: None,
        duration_micros: None,
    };
    if flags & OUTCOME != 0 {
        row.outcome = Some(words::outcome_of(from.word()?).ok()?);
    }
    row.status = from.number()?.try_into().ok()?;
    if flags & COLD != 0 {
        row.cold = Some(words::cold_of(from.word()?).ok()?);
    }
    if flags & DURATION != 0 {
        row.duration_micros = Some(from.signed()?);
    }
    let count = from.count()?;
    row.lines.reserve_exact(count);
    for _ in 0..count {
        let flags = from.byte()?;
        let meter = words::meter_of(from.word()?).ok()?;
        let model = if flags & MODEL != 0 { Some(ModelId::from_bytes(from.id()?)) } else { None };
        let quantity = from.signed()?;
        let price = if flags & PRICE != 0 { Some(from.signed()?) } else { None };
        let amount = if flags & AMOUNT != 0 { Some(from.signed()?) } else { None };
        row.lines.push(RowLine { meter, model, quantity, price, amount });
    }
    Some(row)
}

fn read_call(from: &mut Bytes<'_>) -> Option<Call> {
    let flags = from.byte()?;
    let id = RequestId::from_bytes(from.id()?);
    let tenant = TenantId::from_bytes(from.id()?);
    let project = ProjectId::from_bytes(from.id()?);
    let requested = DeploymentId::from_bytes(from.id()?);
    let revision = RevisionId::from_bytes(from.id()?);
    let key = KeyId::from_bytes(from.id()?);
    let mut other = |bit: u8| if flags & bit != 0 { from.id().map(Some) } else { Some(None) };
    let parent = other(PARENT)?.map(RequestId::from_bytes);
    let root = other(ROOT)?.map_or(id, RequestId::from_bytes);
    let attempt = if flags & ATTEMPT != 0 { from.number()?.try_into().ok()? } else { 1 };
    let mut other = |bit: u8| if flags & bit != 0 { from.id().map(Some) } else { Some(None) };
    let payer = other(PAYER)?.map_or(tenant, TenantId::from_bytes);
    let served = other(SERVED)?.map_or(requested, DeploymentId::from_bytes);
    let end_user = if flags & END_USER != 0 { Some(Arc::from(from.str()?)) } else { None };
    Some(Call {
        id,
        parent,
        root,
        attempt,
        tenant,
        payer,
        project,
        requested,
        served,
        revision,
        deployment_name: from.str()?.parse().ok()?,
        key,
        end_user,
        channel: words::channel_of(from.word()?).ok()?,
        counted_by: words::counted_by_of(from.word()?).ok()?,
        opened_at: from.signed()?,
    })
}

fn read_answer(from: &mut Bytes<'_>, with_body: bool) -> Option<KeptAnswer> {
    let scope = AnswerScope(from.array()?);
    let request = from.array()?;
    let call = RequestId::from_bytes(from.id()?);
    let at = from.signed()?;
    let status = from.number()?.try_into().ok()?;
    let count = from.count()?;
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push((from.str()?.to_owned(), from.text()?.to_vec()));
    }
    let body = if with_body { Some(Arc::from(from.text()?)) } else { None };
    Some(KeptAnswer { scope, request, call, at, status, headers, body })
}

const fn flag(is: bool, bit: u8) -> u8 {
    if is { bit } else { 0 }
}

/// Words have small numbers from 0 on.
const fn unsigned(word: i64) -> u64 {
    word.cast_unsigned()
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn signed(out: &mut Vec<u8>, value: i64) {
    number(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// How many follow: never more than there are bytes.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn word(&mut self) -> Option<i64> {
        self.number()?.try_into().ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn id(&mut self) -> Option<[u8; 16]> {
        self.array()
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.text()?).ok()
    }
}
