//! The small tables that rows refer to, in memory: subjects, models, boots, prices, grants.

use std::collections::HashMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::Problems;
use crate::DbError;
use crate::journal::chain::{self, Hash};

#[derive(Debug)]
pub(super) struct Tables {
    pub(super) subjects: HashMap<i64, Subject>,
    pub(super) models: HashMap<i64, [u8; 16]>,
    /// The hash that the next row of each boot links to.
    pub(super) boots: HashMap<i64, Hash>,
    /// Pico-units per unit.
    pub(super) prices: HashMap<i64, i64>,
    /// The columns of each grant after its position.
    pub(super) grants: HashMap<i64, Vec<Value>>,
}

#[derive(Debug)]
pub(super) struct Subject {
    /// As its columns are now.
    pub(super) digest: Hash,
    /// Tenant, project, deployment asked for, key: by the numbers of their levels.
    pub(super) levels: [Vec<u8>; 4],
    /// What its calls have cost up to the row the walk is at.
    pub(super) spent: i128,
}

impl Tables {
    pub(super) fn read(connection: &Connection, problems: &mut Problems) -> Result<Self, DbError> {
        let mut tables = Self {
            subjects: HashMap::new(),
            models: pairs(connection, "SELECT id, model FROM ledger_model")?,
            boots: HashMap::new(),
            prices: pairs(connection, "SELECT id, pico FROM price")?,
            grants: HashMap::new(),
        };
        let mut statement = connection.prepare("SELECT id, node, boot FROM ledger_boot")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let node: Vec<u8> = row.get(1)?;
            tables.boots.insert(row.get(0)?, chain::genesis(&node, row.get(2)?));
        }
        let sql = "SELECT id, digest, tenant, payer, project, requested, served, revision, deployment_name, key,
                          channel, counted_by FROM ledger_subject";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, stored): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let mut link = chain::Link::default();
            for column in 2..12 {
                link.value(row.get_ref(column)?);
            }
            let digest = link.close(&[0; 32]);
            if stored != digest {
                problems.add(|| format!("subject {id} is not what its digest says"));
            }
            let levels = [row.get(2)?, row.get(4)?, row.get(5)?, row.get(9)?];
            tables.subjects.insert(id, Subject { digest, levels, spent: 0 });
        }
        let sql = "SELECT pos, level, id, money_high, money_low, note, spent_high, spent_low FROM ledger_grant";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let columns = (1..8).map(|column| row.get(column)).collect::<Result<_, _>>()?;
            tables.grants.insert(row.get(0)?, columns);
        }
        Ok(tables)
    }
}

fn pairs<T: rusqlite::types::FromSql>(connection: &Connection, sql: &str) -> Result<HashMap<i64, T>, DbError> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
