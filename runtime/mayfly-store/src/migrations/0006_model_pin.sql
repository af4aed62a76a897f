-- Models that the operator wants loaded on a device, whoever calls. `key`: who said so; null is the system. Rows are of
-- models that have their name: they go over to what takes it, and away with it.
CREATE TABLE model_pin (
    model  BLOB NOT NULL REFERENCES model (id),
    device TEXT NOT NULL,
    key    BLOB,
    at     INTEGER NOT NULL,
    PRIMARY KEY (model, device)
) STRICT, WITHOUT ROWID;
