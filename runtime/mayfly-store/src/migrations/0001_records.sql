-- Records. Ids are 16 bytes, digests and hashes 32, times microseconds since the Unix epoch. `limits` is a level's
-- limits as JSON, null where it has none.

-- One row for each node that has opened this database; `boot` counts its starts.
CREATE TABLE node (
    id         BLOB PRIMARY KEY,
    boot       INTEGER NOT NULL,
    started_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The newest change of each record. AUTOINCREMENT: a version is never given twice.
CREATE TABLE change (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    INTEGER NOT NULL,
    id      BLOB NOT NULL,
    hash    BLOB,
    UNIQUE (kind, id)
) STRICT;

-- What was deleted stays readable by id: the ledger names it.
CREATE TABLE tenant (
    id         BLOB PRIMARY KEY,
    name       TEXT NOT NULL,
    limits     TEXT,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX tenant_name ON tenant (name) WHERE deleted_at IS NULL;

CREATE TABLE project (
    id         BLOB PRIMARY KEY,
    tenant     BLOB NOT NULL REFERENCES tenant (id),
    name       TEXT NOT NULL,
    limits     TEXT,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX project_name ON project (name) WHERE deleted_at IS NULL;
CREATE INDEX project_tenant ON project (tenant) WHERE deleted_at IS NULL;

-- `deployments`: the only ones it may call, as JSON, null for all in reach. `slot`: it is one of the two keys that
-- deployment `slot_of` has for itself.
CREATE TABLE key (
    id           BLOB PRIMARY KEY,
    tenant       BLOB REFERENCES tenant (id),
    project      BLOB REFERENCES project (id),
    label        TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    hash         BLOB NOT NULL UNIQUE,
    scopes       TEXT NOT NULL,
    deployments  TEXT,
    slot_of      BLOB REFERENCES deployment (id),
    slot         TEXT,
    limits       TEXT,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX key_tenant ON key (tenant);
CREATE UNIQUE INDEX key_slot ON key (slot_of, slot) WHERE slot IS NOT NULL AND revoked_at IS NULL;

-- `owner` is a project, or null: the host. A row without its name stays readable by id.
CREATE TABLE model (
    id         BLOB PRIMARY KEY,
    owner      BLOB REFERENCES project (id),
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL,
    info       TEXT NOT NULL,
    approved   INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    named      INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX model_name ON model (ifnull(owner, x''), name) WHERE named = 1;
CREATE INDEX model_digest ON model (digest);

CREATE TABLE deployment (
    id         BLOB PRIMARY KEY,
    project    BLOB NOT NULL REFERENCES project (id),
    name       TEXT NOT NULL,
    active     BLOB REFERENCES revision (id),
    limits     TEXT,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX deployment_name ON deployment (project, name) WHERE deleted_at IS NULL;
CREATE INDEX deployment_active ON deployment (active);

CREATE TABLE revision (
    id         BLOB PRIMARY KEY,
    deployment BLOB NOT NULL REFERENCES deployment (id),
    number     INTEGER NOT NULL,
    handler    BLOB NOT NULL,
    spec       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (deployment, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX revision_handler ON revision (handler);

-- Which models a revision was granted (`spec` has the rest).
CREATE TABLE revision_model (
    model    BLOB NOT NULL REFERENCES model (id),
    revision BLOB NOT NULL REFERENCES revision (id),
    PRIMARY KEY (model, revision)
) STRICT, WITHOUT ROWID;

-- Components a project has uploaded: it may deploy them by digest, before any revision uses them.
CREATE TABLE upload (
    project BLOB NOT NULL REFERENCES project (id),
    digest  BLOB NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (project, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX upload_digest ON upload (digest);
CREATE INDEX upload_at ON upload (at);

-- What was changed on the control plane, by whom: written with the change. `actor`: the key; null is the system.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    actor   BLOB,
    request BLOB,
    tenant  BLOB,
    project BLOB,
    action  TEXT NOT NULL,
    target  TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_tenant ON audit (tenant);
