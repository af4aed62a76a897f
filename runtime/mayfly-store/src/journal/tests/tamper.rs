//! What was changed behind the ledger's back is found.

use mayfly_ledger::Grant;
use mayfly_types::{LevelId, Money};
use rusqlite::Connection;
use rusqlite::types::Value;

use super::*;

/// A ledger with rows of every kind, closed.
async fn ledger() -> tempfile::TempDir {
    let (folder, store) = open();
    model::priced(&store).await;
    let journal = store.journal();
    let priced = |quantity| RowLine {
        meter: Meter::InputTokens,
        model: Some(model(1)),
        quantity,
        price: Some(1),
        amount: Some(quantity * 3),
    };
    let mut odd = Arc::unwrap_or_clone(call(2, AT));
    odd.parent = Some(RequestId::new());
    odd.root = RequestId::new();
    odd.attempt = 2;
    let streamed = Arc::new(odd);
    let settled = row(Kind::Settle, &streamed, AT + 9, vec![priced(20)]);
    append(&journal, [row(Kind::Open, &streamed, AT, vec![])]).await.unwrap();
    append(&journal, [row(Kind::Progress, &streamed, AT, vec![priced(10)]), settled]).await.unwrap();
    append(&journal, [row(Kind::Void, &call(1, AT), AT + 7, vec![])]).await.unwrap();
    append(&journal, [row(Kind::Correct, &streamed, AT + 99, vec![priced(-20), priced(20)])]).await.unwrap();
    for level in [LevelId::Tenant(tenant(2)), LevelId::Tenant(tenant(2)), LevelId::Key(KeyId::from_bytes([5; 16]))] {
        let grant = Grant { level, amount: Money::from_pico(5_000_000_000_001), note: "paid".to_owned(), at: AT };
        journal.grant(grant).await.unwrap();
    }
    let alive = call(1, AT + HOUR);
    append(&journal, [row(Kind::Open, &alive, AT + HOUR, vec![])]).await.unwrap();
    append(&journal, [row(Kind::Settle, &call(1, AT + HOUR), AT + HOUR + 1, vec![priced(7)])]).await.unwrap();
    assert_clean(&journal).await;
    store.close().await;
    folder
}

/// The problems after `change`, which is undone.
async fn problems(folder: &tempfile::TempDir, change: impl FnOnce(&Connection)) -> Vec<String> {
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join("mayfly.db"), other.path().join("mayfly.db")).unwrap();
    let connection = Connection::open(other.path().join("mayfly.db")).unwrap();
    change(&connection);
    drop(connection);
    let store = Store::open(other.path()).unwrap();
    let found = store.journal().verify().await.unwrap();
    store.close().await;
    found.problems
}

/// A value with one bit changed, or another one where there was none.
fn flipped(value: Value, name: &str) -> Value {
    match value {
        Value::Integer(number) => Value::Integer(number ^ 1),
        Value::Text(text) => {
            let mut bytes = text.into_bytes();
            match bytes.last_mut() {
                Some(last) => *last ^= 1,
                None => bytes.push(b'a'),
            }
            Value::Text(String::from_utf8(bytes).unwrap())
        }
        Value::Blob(mut bytes) => {
            bytes[3] ^= 1;
            Value::Blob(bytes)
        }
        Value::Null if matches!(name, "end_user" | "lines") => Value::Text("[[1,0,1]]".to_owned()),
        Value::Null if matches!(name, "call" | "parent" | "root") => Value::Blob(vec![1; 16]),
        Value::Null => Value::Integer(1),
        Value::Real(_) => panic!("no column is real"),
    }
}

#[tokio::test]
async fn one_changed_bit_in_any_column_of_any_row_is_found() {
    let folder = ledger().await;
    let tables = [
        ("ledger", "pos"),
        ("ledger_boot", "id"),
        ("ledger_subject", "id"),
        ("ledger_model", "id"),
        ("ledger_grant", "pos"),
    ];
    let mut tried = 0;
    for (table, key) in tables {
        let connection = Connection::open(folder.path().join("mayfly.db")).unwrap();
        let mut cells: Vec<(i64, String, Value)> = Vec::new();
        {
            let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let place = names.iter().position(|name| name == key).unwrap();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                for (column, name) in names.iter().enumerate() {
                    cells.push((row.get(place).unwrap(), name.clone(), row.get(column).unwrap()));
                }
            }
        }
        drop(connection);
        assert!(!cells.is_empty(), "{table}");
        for (id, column, value) in cells {
            let change = |connection: &Connection| {
                let new = match (value.clone(), column == key) {
                    // A number that no other row has.
                    (Value::Integer(number), true) => Value::Integer(number + 1_000),
                    (value, _) => flipped(value, &column),
                };
                let sql = format!("UPDATE {table} SET {column} = ?1 WHERE {key} = ?2");
                match connection.execute(&sql, (new, id)) {
                    Ok(rows) => assert_eq!(rows, 1),
                    // The schema itself does not let a part be given twice: changed to one that nobody has.
                    Err(_) if column == "part" => {
                        connection.execute("UPDATE ledger SET part = part + 64 WHERE pos = ?1", [id]).unwrap();
                    }
                    Err(error) => panic!("{table}.{column}: {error}"),
                }
            };
            let found = problems(&folder, change).await;
            assert!(!found.is_empty(), "{table}.{column} of row {id}");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
}

#[tokio::test]
async fn changed_sums_open_calls_prices_and_lost_rows_are_found() {
    let folder = ledger().await;
    let found = problems(&folder, |_connection| {}).await;
    assert_eq!(found, [] as [String; 0], "nothing was changed");
    let mut changes: Vec<String> = ["subject", "hour", "model", "meter", "price", "quantity_high", "quantity_low"]
        .into_iter()
        .chain(["money_high", "money_low"])
        .map(|column| format!("UPDATE rollup SET {column} = {column} + 1 WHERE price = 1"))
        .collect();
    for sql in [
        "UPDATE rollup SET end_user = 'eve' WHERE end_user = 'ada'",
        "UPDATE rollup SET quantity_high = quantity_high - 1, quantity_low = quantity_low + 1000000000000",
        "DELETE FROM rollup WHERE meter = 0",
        "DELETE FROM rollup WHERE meter = 100",
        "UPDATE ledger_live SET call = x'00112233445566778899aabbccddeeff'",
        "UPDATE ledger_live SET boot = boot + 1",
        "UPDATE ledger_live SET pos = pos - 1",
        "DELETE FROM ledger_live",
        "UPDATE price SET pico = pico + 1 WHERE id = 1",
        "UPDATE price SET id = 9 WHERE id = 1",
        "DELETE FROM price WHERE id = 1",
        "DELETE FROM ledger_grant WHERE pos = (SELECT min(pos) FROM ledger_grant)",
        "DELETE FROM ledger WHERE kind = 0",
        "DELETE FROM ledger WHERE kind = 2",
        "DELETE FROM ledger WHERE pos = (SELECT max(pos) FROM ledger)",
        "DELETE FROM ledger WHERE kind = 5",
        "DELETE FROM ledger",
    ] {
        changes.push(sql.to_owned());
    }
    for sql in changes {
        let change = |connection: &Connection| assert!(connection.execute(&sql, []).unwrap() > 0, "{sql}");
        assert!(!problems(&folder, change).await.is_empty(), "{sql}");
    }
}
