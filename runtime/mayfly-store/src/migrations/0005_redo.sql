-- How far the redo log (`redo/`, beside this file) is in the tables: the number of the newest append that is. Written in the
-- transaction of its rows, so that each append is applied once.
CREATE TABLE ledger_redo (
    node    BLOB PRIMARY KEY,
    applied INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
