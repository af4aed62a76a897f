//! Models that the operator pinned, and what of that a stopped server's folder tells.

use std::path::Path;

use mayfly_registry::{ChangeKind, Device, ModelPin, Owner, PinnedBy};
use mayfly_types::{KeyId, ModelId};
use rusqlite::{Connection, OpenFlags, Row, params};
use serde_json::json;

use super::audit::By;
use super::changes::note;
use super::models::{self, still_named, tell};
use super::rows::{execute, many};
use crate::{DbError, db};

const ALL: &str = "SELECT pin.model, pin.device, pin.at, pin.key, key.prefix, key.label
                   FROM model_pin AS pin LEFT JOIN key ON key.id = pin.key";

/// The format of the database that pins came with.
const VERSION_MIN: i64 = 6;

fn to_pin(row: &Row<'_>) -> Result<ModelPin, DbError> {
    let device: String = row.get("device")?;
    let by = row.get::<_, Option<_>>("key")?.map(|key| {
        let key = KeyId::from_bytes(key);
        Ok::<_, DbError>(PinnedBy {
            key,
            prefix: row.get::<_, Option<_>>("prefix")?.unwrap_or_default(),
            label: row.get::<_, Option<_>>("label")?.unwrap_or_default(),
        })
    });
    Ok(ModelPin {
        model: ModelId::from_bytes(row.get("model")?),
        device: device.parse().map_err(|error| DbError::damaged("pin", error))?,
        by: by.transpose()?,
        at: row.get("at")?,
    })
}

pub(super) fn of(connection: &Connection, model: Option<ModelId>) -> Result<Vec<ModelPin>, DbError> {
    match model {
        Some(model) => {
            let sql = format!("{ALL} WHERE pin.model = ?1 ORDER BY pin.at, pin.device");
            many(connection, &sql, [model.to_bytes()], to_pin)
        }
        None => many(connection, &format!("{ALL} ORDER BY pin.at, pin.model, pin.device"), [], to_pin),
    }
}

pub(super) fn pin(connection: &Connection, by: By, id: ModelId, device: Device, at: i64) -> Result<(), DbError> {
    let model = still_named(connection, id)?;
    let sql = "INSERT INTO model_pin (model, device, key, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    let values = params![id.to_bytes(), device.as_str(), by.key().map(KeyId::to_bytes), at];
    if execute(connection, sql, values)? == 0 {
        return Ok(());
    }
    note(connection, &ChangeKind::Model(id))?;
    tell(connection, by, model.owner, &model.name, "model.pin", json!({ "id": id, "device": device }))
}

pub(super) fn unpin(connection: &Connection, by: By, id: ModelId, device: Device) -> Result<(), DbError> {
    let model = still_named(connection, id)?;
    let sql = "DELETE FROM model_pin WHERE model = ?1 AND device = ?2";
    if execute(connection, sql, params![id.to_bytes(), device.as_str()])? == 0 {
        return Err(DbError::NotFound("pin"));
    }
    note(connection, &ChangeKind::Model(id))?;
    tell(connection, by, model.owner, &model.name, "model.unpin", json!({ "id": id, "device": device }))
}

/// The name of `from` has gone to `to`, or is gone: so are its pins. Gives the devices, for the trail.
pub(super) fn hand_over(
    connection: &Connection,
    from: ModelId,
    to: Option<ModelId>,
) -> Result<Vec<&'static str>, DbError> {
    let devices = of(connection, Some(from))?.iter().map(|pin| pin.device.as_str()).collect();
    match to {
        Some(to) => {
            let sql = "UPDATE model_pin SET model = ?2 WHERE model = ?1";
            execute(connection, sql, params![from.to_bytes(), to.to_bytes()])?;
        }
        None => drop(execute(connection, "DELETE FROM model_pin WHERE model = ?1", [from.to_bytes()])?),
    }
    Ok(devices)
}

/// The pins in the database of `folder`, each with the model's owner and name, the oldest first; none where there is no
/// database yet or one from before there were pins. For who has not opened the folder: a server may be at work on it.
/// Blocking.
///
/// # Errors
/// [`DbError`] if it cannot be read.
pub(crate) fn peek(folder: &Path) -> Result<Vec<(Owner, String, ModelPin)>, DbError> {
    let file = folder.join("mayfly.db");
    if !file.exists() {
        return Ok(Vec::new());
    }
    let connection = db::connect(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < VERSION_MIN {
        return Ok(Vec::new());
    }
    let pins = of(&connection, None)?;
    let named = pins.into_iter().map(|pin| {
        let model = models::by_id(&connection, pin.model)?.ok_or(DbError::NotFound("model"))?;
        Ok((model.owner, model.name.to_string(), pin))
    });
    named.collect()
}
