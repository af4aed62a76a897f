-- The ledger. Ids are 16 bytes, times microseconds since the Unix epoch.

-- One row for each start of a node that has written to the ledger; `id` keeps the other tables narrow.
CREATE TABLE ledger_boot (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    node BLOB NOT NULL,
    boot INTEGER NOT NULL,
    UNIQUE (node, boot)
) STRICT;

-- Who called what. `root`, `payer` and `served` are null where they are the call itself, its tenant and `requested`.
CREATE TABLE call (
    id              BLOB PRIMARY KEY,
    parent          BLOB,
    root            BLOB,
    attempt         INTEGER NOT NULL,
    tenant          BLOB NOT NULL,
    payer           BLOB,
    project         BLOB NOT NULL,
    requested       BLOB NOT NULL,
    served          BLOB,
    revision        BLOB NOT NULL,
    deployment_name TEXT NOT NULL,
    key             BLOB NOT NULL,
    end_user        TEXT,
    channel         TEXT NOT NULL,
    counted_by      TEXT NOT NULL,
    opened_at       INTEGER NOT NULL,
    boot            INTEGER NOT NULL REFERENCES ledger_boot (id),
    ended           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX call_tenant ON call (tenant, opened_at);
CREATE INDEX call_opened ON call (opened_at);
CREATE INDEX call_open ON call (boot) WHERE ended = 0;

-- The rows, append-only, numbered without a gap within each boot. `lines`: what a progress row said, as JSON.
CREATE TABLE ledger (
    boot     INTEGER NOT NULL REFERENCES ledger_boot (id),
    seq      INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    call     BLOB NOT NULL,
    at       INTEGER NOT NULL,
    outcome  TEXT,
    status   INTEGER NOT NULL,
    cold     TEXT,
    duration INTEGER,
    lines    TEXT,
    PRIMARY KEY (boot, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_call ON ledger (call);
-- A call ends once.
CREATE UNIQUE INDEX ledger_end ON ledger (call) WHERE kind IN ('settle', 'void');

-- Usage of each call as its newest row tells it; final once the call has ended. `model` is empty for guest CPU.
CREATE TABLE ledger_line (
    call     BLOB NOT NULL,
    meter    TEXT NOT NULL,
    model    BLOB NOT NULL,
    quantity INTEGER NOT NULL,
    price    INTEGER,
    amount   INTEGER,
    PRIMARY KEY (call, meter, model)
) STRICT, WITHOUT ROWID;
