//! Values that many rows share, written once: who calls what, and models.

use std::collections::HashMap;

use mayfly_ledger::Call;
use mayfly_types::ModelId;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::chain::{self, Hash};
use super::words;
use crate::DbError;

/// Subjects and models remembered each; more are looked up again.
const REMEMBERED_MAX: usize = 16_384;

/// Numbers of subjects and models that were written or looked up.
#[derive(Debug, Default)]
pub(super) struct Interned {
    subjects: HashMap<Hash, i64>,
    models: HashMap<ModelId, i64>,
}

impl Interned {
    /// The number and the digest of who calls what in `call`.
    pub(super) fn subject(&mut self, connection: &Connection, call: &Call) -> Result<(i64, Hash), DbError> {
        let ids = [
            call.tenant.to_bytes(),
            call.payer.to_bytes(),
            call.project.to_bytes(),
            call.requested.to_bytes(),
            call.served.to_bytes(),
            call.revision.to_bytes(),
        ];
        let (name, key) = (call.deployment_name.as_str(), call.key.to_bytes());
        let (channel, counted_by) = (words::channel(call.channel), words::counted_by(call.counted_by));
        let values = ids.iter().map(|id| ValueRef::Blob(id)).chain([
            ValueRef::Text(name.as_bytes()),
            ValueRef::Blob(&key),
            ValueRef::Integer(channel),
            ValueRef::Integer(counted_by),
        ]);
        let digest = chain::digest(values);
        if let Some(id) = self.subjects.get(&digest) {
            return Ok((*id, digest));
        }
        let sql = "SELECT id FROM ledger_subject WHERE digest = ?1";
        let known = connection.prepare_cached(sql)?.query_row([digest], |row| row.get(0)).optional()?;
        let id = match known {
            Some(id) => id,
            None => {
                let sql = "INSERT INTO ledger_subject (tenant, payer, project, requested, served, revision,
                                                       deployment_name, key, channel, counted_by, digest)
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) RETURNING id";
                let [tenant, payer, project, requested, served, revision] = ids;
                let values = params![
                    tenant, payer, project, requested, served, revision, name, key, channel, counted_by, digest
                ];
                connection.prepare_cached(sql)?.query_row(values, |row| row.get(0))?
            }
        };
        remember(&mut self.subjects, digest, id);
        Ok((id, digest))
    }

    /// The number of `model`; 0 for none.
    pub(super) fn model(&mut self, connection: &Connection, model: Option<ModelId>) -> Result<i64, DbError> {
        let Some(model) = model else { return Ok(0) };
        if let Some(id) = self.models.get(&model) {
            return Ok(*id);
        }
        let bytes = model.to_bytes();
        let sql = "SELECT id FROM ledger_model WHERE model = ?1";
        let known = connection.prepare_cached(sql)?.query_row([bytes], |row| row.get(0)).optional()?;
        let id = match known {
            Some(id) => id,
            None => {
                let sql = "INSERT INTO ledger_model (model) VALUES (?1) RETURNING id";
                connection.prepare_cached(sql)?.query_row([bytes], |row| row.get(0))?
            }
        };
        remember(&mut self.models, model, id);
        Ok(id)
    }
}

fn remember<K: std::hash::Hash + Eq>(map: &mut HashMap<K, i64>, key: K, id: i64) {
    if map.len() >= REMEMBERED_MAX {
        map.clear();
    }
    map.insert(key, id);
}
