//! Answers kept for callers who send the same `Idempotency-Key` again.

use mayfly_ledger::{AnswerScope, KeptAnswer};
use mayfly_types::RequestId;
use rusqlite::{Connection, params};

use crate::DbError;

/// Bytes that a kept answer takes besides its headers and its body.
const OVERHEAD_BYTES: usize = 160;

/// Keeps `answer`, in the transaction of the row that ends its call. One of the same scope is replaced: whoever calls
/// has seen that it is too old.
pub(super) fn keep(connection: &Connection, answer: &KeptAnswer) -> Result<(), DbError> {
    let headers = pack(&answer.headers)?;
    let bytes = headers.len() + answer.body.as_deref().map_or(0, <[u8]>::len) + OVERHEAD_BYTES;
    let sql = "INSERT OR REPLACE INTO answer (scope, request, call, at, status, headers, body, bytes)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(sql)?.execute(params![
        answer.scope.0,
        answer.request,
        answer.call.to_bytes(),
        answer.at,
        answer.status,
        headers,
        answer.body.as_deref(),
        i64::try_from(bytes).expect("no allocation is larger"),
    ])?;
    Ok(())
}

/// The answer of `scope`, if it is younger than `oldest`.
pub(super) fn find(connection: &Connection, scope: AnswerScope, oldest: i64) -> Result<Option<KeptAnswer>, DbError> {
    let sql = "SELECT request, call, at, status, headers, body FROM answer WHERE scope = ?1 AND at >= ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![scope.0, oldest])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let headers = row.get_ref(4)?.as_blob().map_err(|error| DbError::damaged("answer", error))?;
    Ok(Some(KeptAnswer {
        scope,
        request: row.get(0)?,
        call: RequestId::from_bytes(row.get(1)?),
        at: row.get(2)?,
        status: row.get(3)?,
        headers: unpack(headers).ok_or_else(|| DbError::damaged("answer", "its headers cannot be read"))?,
        body: row.get::<_, Option<Vec<u8>>>(5)?.map(Into::into),
    }))
}

/// The time up to which answers have to go so that those left are no older than `oldest` and have no more than
/// `bytes_max` bytes. None if all may stay.
pub(super) fn surplus(connection: &Connection, oldest: i64, bytes_max: u64) -> Result<Option<i64>, DbError> {
    let mut left = i64::try_from(bytes_max).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached("SELECT at, bytes FROM answer ORDER BY at DESC, bytes DESC")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (at, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
        left = left.saturating_sub(bytes);
        if left < 0 || at < oldest {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Forgets answers kept up to `at`, oldest first, at most `limit`; how many.
pub(super) fn forget(connection: &Connection, at: i64, limit: u32) -> Result<u64, DbError> {
    let sql = "DELETE FROM answer WHERE rowid IN (SELECT rowid FROM answer WHERE at <= ?1 ORDER BY at LIMIT ?2)";
    Ok(connection.prepare_cached(sql)?.execute(params![at, limit])? as u64)
}

/// Headers as one blob: of each the length (4 bytes, little-endian) and bytes of name and value.
fn pack(headers: &[(String, Vec<u8>)]) -> Result<Vec<u8>, DbError> {
    let mut packed = Vec::new();
    for part in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        let too_long = |_error| DbError::Failed { detail: "a header of an answer is longer than 4 GiB".to_owned() };
        packed.extend_from_slice(&u32::try_from(part.len()).map_err(too_long)?.to_le_bytes());
        packed.extend_from_slice(part);
    }
    Ok(packed)
}

fn unpack(mut packed: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut part = || -> Option<Option<Vec<u8>>> {
        if packed.is_empty() {
            return Some(None);
        }
        let (length, rest) = packed.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        packed = rest;
        Some(Some(part.to_vec()))
    };
    let mut headers = Vec::new();
    while let Some(name) = part()? {
        headers.push((String::from_utf8(name).ok()?, part()??));
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn headers_and_back() {
        let headers = vec![
            ("content-type".to_owned(), b"text/plain".to_vec()),
            ("x-bytes".to_owned(), vec![0xff, 0]),
            ("x-empty".to_owned(), vec![]),
        ];
        let packed = pack(&headers).unwrap();
        assert_eq!(unpack(&packed), Some(headers));
        assert_eq!(unpack(&[]), Some(vec![]));
        for cut in 1..packed.len() {
            assert_ne!(unpack(&packed[..cut]), unpack(&packed));
        }
        assert_eq!(unpack(&[255, 255, 255, 255, 1]), None);
        assert_eq!(unpack(&[1, 0, 0, 0, 0xff, 0, 0, 0, 0]), None, "a name that is not text");
    }
}
