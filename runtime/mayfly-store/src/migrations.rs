//! The format of the database: numbered SQL files, each applied once, in one transaction with its number.
//!
//! A file that has been released is never changed; a new format is a new file at the end of the list.

use rusqlite::Connection;

use crate::{DbError, StoreError};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_records.sql"),
    include_str!("migrations/0002_ledger.sql"),
    include_str!("migrations/0003_keyvalue.sql"),
    include_str!("migrations/0004_limits_by_operator.sql"),
    include_str!("migrations/0005_redo.sql"),
    include_str!("migrations/0006_model_pin.sql"),
];

/// In the file's header, so that no other program's database is taken for ours: "Mayf".
const APPLICATION_ID: i64 = 0x4d61_7966;

/// Brings the database to the newest format.
///
/// # Errors
/// [`StoreError::Newer`] or [`StoreError::Foreign`]: nothing was changed.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    migrate_to(connection, MIGRATIONS)
}

fn migrate_to(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(DbError::from)?;
    let pragma =
        |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(DbError::from);
    let (application, found) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(DbError::from)?;
    if application != APPLICATION_ID && (application != 0 || tables > 0) {
        return Err(StoreError::Foreign);
    }
    let known = i64::try_from(migrations.len()).expect("a handful of files");
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let done = usize::try_from(found).map_err(|_negative| StoreError::Foreign)?;
    for sql in &migrations[done..] {
        transaction.execute_batch(sql).map_err(DbError::from)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(DbError::from)?;
    transaction.pragma_update(None, "user_version", known).map_err(DbError::from)?;
    transaction.commit().map_err(DbError::from)?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn each_file_is_applied_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        let first = "CREATE TABLE a (x) ; INSERT INTO a VALUES (1);";
        migrate_to(&mut connection, &[first]).unwrap();
        migrate_to(&mut connection, &[first, "INSERT INTO a VALUES (2);"]).unwrap();
        migrate_to(&mut connection, &[first, "INSERT INTO a VALUES (2);"]).unwrap();
        let sum: i64 = connection.query_row("SELECT sum(x) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!((sum, version(&connection)), (3, 2));
    }

    #[test]
    fn a_newer_format_is_refused_untouched() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_to(&mut connection, &["CREATE TABLE a (x);", "CREATE TABLE b (x);"]).unwrap();
        let error = migrate_to(&mut connection, &["CREATE TABLE a (x);"]).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1 }), "{error}");
        assert_eq!(version(&connection), 2);
    }

    #[test]
    fn another_programs_file_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(migrate(&mut connection), Err(StoreError::Foreign)));
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "application_id", 7).unwrap();
        assert!(matches!(migrate(&mut connection), Err(StoreError::Foreign)));
    }

    #[test]
    fn a_failing_file_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(migrate_to(&mut connection, &["CREATE TABLE a (x);", "CREATE TABLE a (x);"]).is_err());
        assert_eq!(version(&connection), 0);
        migrate_to(&mut connection, &["CREATE TABLE a (x);"]).unwrap();
    }
}
