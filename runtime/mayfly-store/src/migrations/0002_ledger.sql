-- The ledger. Ids are 16 bytes, times microseconds since the Unix epoch, words small numbers (see journal/words.rs).
-- Null stands for the usual value, so that a row stays short.

-- One row for each start of a node that has written to the ledger: one hash chain each.
CREATE TABLE ledger_boot (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    node BLOB NOT NULL,
    boot INTEGER NOT NULL,
    UNIQUE (node, boot)
) STRICT;

-- Who calls what, in so few combinations that each is written once. `digest` is a hash over the others.
CREATE TABLE ledger_subject (
    id              INTEGER PRIMARY KEY,
    tenant          BLOB NOT NULL,
    payer           BLOB NOT NULL,
    project         BLOB NOT NULL,
    requested       BLOB NOT NULL,
    served          BLOB NOT NULL,
    revision        BLOB NOT NULL,
    deployment_name TEXT NOT NULL,
    key             BLOB NOT NULL,
    channel         INTEGER NOT NULL,
    counted_by      INTEGER NOT NULL,
    digest          BLOB NOT NULL UNIQUE
) STRICT;
CREATE INDEX ledger_subject_tenant ON ledger_subject (tenant);
CREATE INDEX ledger_subject_project ON ledger_subject (project);
CREATE INDEX ledger_subject_requested ON ledger_subject (requested);
CREATE INDEX ledger_subject_key ON ledger_subject (key);

CREATE TABLE ledger_model (
    id    INTEGER PRIMARY KEY,
    model BLOB NOT NULL UNIQUE
) STRICT;

-- The rows, append-only, numbered without a gap. `part` is 0 for the end of a call, 1.. for its opening and progress,
-- -1.. for corrections. `lines`: `[[meter,model,quantity,price,amount],...]`. `hash` links the row to the one before
-- it in its boot. A grant has no call; what it says stands in `ledger_grant`.
CREATE TABLE ledger (
    pos       INTEGER PRIMARY KEY,
    boot      INTEGER NOT NULL,
    kind      INTEGER NOT NULL,
    call      BLOB,
    part      INTEGER NOT NULL,
    subject   INTEGER,
    opened_at INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    outcome   INTEGER,
    status    INTEGER NOT NULL,
    cold      INTEGER,
    duration  INTEGER,
    end_user  TEXT,
    parent    BLOB,
    root      BLOB,
    attempt   INTEGER,
    lines     TEXT,
    hash      BLOB NOT NULL
) STRICT;
-- A call ends once, and opens once.
CREATE UNIQUE INDEX ledger_call ON ledger (call, part);

-- Calls that were opened by a row of their own and have not ended: what recovery reads.
CREATE TABLE ledger_live (
    call BLOB PRIMARY KEY,
    boot INTEGER NOT NULL,
    pos  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Sums over ended calls, by the hour they opened in; corrections count in the hour of their call. `model` and `price`
-- are 0 for none. A sum is `high` x 10^12 + `low`, so that none leaves 64 bits.
CREATE TABLE rollup (
    subject       INTEGER NOT NULL,
    hour          INTEGER NOT NULL,
    end_user      TEXT NOT NULL,
    model         INTEGER NOT NULL,
    meter         INTEGER NOT NULL,
    price         INTEGER NOT NULL,
    quantity_high INTEGER NOT NULL,
    quantity_low  INTEGER NOT NULL,
    money_high    INTEGER NOT NULL,
    money_low     INTEGER NOT NULL,
    PRIMARY KEY (subject, hour, end_user, model, meter, price)
) STRICT, WITHOUT ROWID;

-- What grant rows say. The first of a level notes what the level had spent by then.
CREATE TABLE ledger_grant (
    pos        INTEGER PRIMARY KEY,
    level      INTEGER NOT NULL,
    id         BLOB NOT NULL,
    money_high INTEGER NOT NULL,
    money_low  INTEGER NOT NULL,
    note       TEXT NOT NULL,
    spent_high INTEGER,
    spent_low  INTEGER
) STRICT;
CREATE INDEX ledger_grant_level ON ledger_grant (level, id, pos);

-- Answers kept for callers who send the same `Idempotency-Key` again.
CREATE TABLE answer (
    scope   BLOB PRIMARY KEY,
    request BLOB NOT NULL,
    call    BLOB NOT NULL,
    at      INTEGER NOT NULL,
    status  INTEGER NOT NULL,
    headers BLOB NOT NULL,
    body    BLOB,
    bytes   INTEGER NOT NULL
) STRICT;
CREATE INDEX answer_at ON answer (at, bytes);

-- The price book: append-only.
CREATE TABLE price (
    id         INTEGER PRIMARY KEY,
    tenant     BLOB,
    model      TEXT,
    pool       TEXT NOT NULL,
    meter      INTEGER NOT NULL,
    pico       INTEGER NOT NULL,
    begins_at  INTEGER NOT NULL,
    ends_at    INTEGER,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE ledger_setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
