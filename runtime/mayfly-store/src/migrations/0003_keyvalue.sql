-- What guests keep (`wasi:keyvalue`): keys and values of one deployment, never shared.

-- How much a deployment keeps, so that a limit costs no counting. `last` numbers its keys, for paging.
CREATE TABLE keyvalue_use (
    deployment BLOB PRIMARY KEY REFERENCES deployment (id),
    keys       INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    last       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keyvalue (
    deployment BLOB NOT NULL REFERENCES deployment (id),
    key        TEXT NOT NULL,
    number     INTEGER NOT NULL,
    value      BLOB NOT NULL,
    PRIMARY KEY (deployment, key)
) STRICT;
CREATE UNIQUE INDEX keyvalue_number ON keyvalue (deployment, number);

-- Deleting a deployment forgets its data, in the same step.
CREATE TRIGGER keyvalue_forget AFTER UPDATE OF deleted_at ON deployment WHEN new.deleted_at IS NOT NULL
BEGIN
    DELETE FROM keyvalue WHERE deployment = new.id;
    DELETE FROM keyvalue_use WHERE deployment = new.id;
END;
