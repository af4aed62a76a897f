//! Between stored values and the ledger's types.

use std::sync::Arc;

use mayfly_ledger::{Call, Channel, CountedBy, Kind, Outcome, RowLine};
use mayfly_types::{Meter, ModelId};
use rusqlite::{Connection, params};

use crate::DbError;

/// The columns [`call`] reads, in its order.
pub(super) const CALL_COLUMNS: &str = "c.id, c.parent, c.root, c.attempt, c.tenant, c.payer, c.project, c.requested, \
     c.served, c.revision, c.deployment_name, c.key, c.end_user, c.channel, c.counted_by, c.opened_at";

/// A call from the first sixteen columns of a row.
pub(super) fn call(row: &rusqlite::Row<'_>) -> Result<Call, DbError> {
    let id = RequestIdBytes(row.get(0)?);
    let tenant: [u8; 16] = row.get(4)?;
    let requested: [u8; 16] = row.get(7)?;
    let (channel, counted_by): (String, String) = (row.get(13)?, row.get(14)?);
    let name: String = row.get(10)?;
    Ok(Call {
        id: id.id(),
        parent: row.get::<_, Option<[u8; 16]>>(1)?.map(|bytes| RequestIdBytes(bytes).id()),
        root: RequestIdBytes(row.get::<_, Option<[u8; 16]>>(2)?.unwrap_or(id.0)).id(),
        attempt: row.get(3)?,
        tenant: mayfly_types::TenantId::from_bytes(tenant),
        payer: mayfly_types::TenantId::from_bytes(row.get::<_, Option<[u8; 16]>>(5)?.unwrap_or(tenant)),
        project: mayfly_types::ProjectId::from_bytes(row.get(6)?),
        requested: mayfly_types::DeploymentId::from_bytes(requested),
        served: mayfly_types::DeploymentId::from_bytes(row.get::<_, Option<[u8; 16]>>(8)?.unwrap_or(requested)),
        revision: mayfly_types::RevisionId::from_bytes(row.get(9)?),
        deployment_name: name.parse().map_err(|error| DbError::damaged("call", error))?,
        key: mayfly_types::KeyId::from_bytes(row.get(11)?),
        end_user: row.get::<_, Option<String>>(12)?.map(Into::into),
        channel: word(Channel::ALL, |channel| channel.as_str(), &channel)?,
        counted_by: word(CountedBy::ALL, |by| by.as_str(), &counted_by)?,
        opened_at: row.get(15)?,
    })
}

struct RequestIdBytes([u8; 16]);

impl RequestIdBytes {
    fn id(&self) -> mayfly_types::RequestId {
        mayfly_types::RequestId::from_bytes(self.0)
    }
}

/// The value of `all` whose text is `text`.
fn word<T: Copy>(all: &[T], text_of: impl Fn(T) -> &'static str, text: &str) -> Result<T, DbError> {
    let found = all.iter().copied().find(|value| text_of(*value) == text);
    found.ok_or_else(|| DbError::damaged("ledger row", format_args!("`{text}` is not a word of it")))
}

pub(super) fn kind(text: &str) -> Result<Kind, DbError> {
    word(Kind::ALL, |kind| kind.as_str(), text)
}

pub(super) fn outcome(text: &str) -> Result<Outcome, DbError> {
    word(&Outcome::ALL, |outcome| outcome.as_str(), text)
}

pub(super) fn meter(text: &str) -> Result<Meter, DbError> {
    word(&Meter::ALL, |meter| meter.as_str(), text)
}

/// `model` as `ledger_line` keeps it: empty for none.
pub(super) fn model_bytes(model: Option<ModelId>) -> Vec<u8> {
    model.map(|model| model.to_bytes().to_vec()).unwrap_or_default()
}

/// The reverse of [`model_bytes`].
pub(super) fn model(bytes: &[u8]) -> Result<Option<ModelId>, DbError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = bytes.try_into().map_err(|error| DbError::damaged("ledger line", error))?;
    Ok(Some(ModelId::from_bytes(bytes)))
}

/// Usage of one call, by meter and model.
pub(super) fn lines(connection: &Connection, call: [u8; 16]) -> Result<Vec<RowLine>, DbError> {
    let sql = "SELECT meter, model, quantity, price, amount FROM ledger_line WHERE call = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![call])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.push(RowLine {
            meter: meter(row.get_ref(0)?.as_str().map_err(|error| DbError::damaged("ledger line", error))?)?,
            model: model(row.get_ref(1)?.as_blob().map_err(|error| DbError::damaged("ledger line", error))?)?,
            quantity: row.get(2)?,
            price: row.get(3)?,
            amount: row.get(4)?,
        });
    }
    lines.sort_by_key(|line| (line.meter, line.model));
    Ok(lines)
}

/// Shared text of the few words `cold` can be.
pub(super) fn shared(text: Option<String>) -> Option<Arc<str>> {
    text.map(Into::into)
}
