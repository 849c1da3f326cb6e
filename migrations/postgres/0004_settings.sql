-- Settings that every process on this database must agree on.
CREATE TABLE myapi.settings (
    name  TEXT NOT NULL CONSTRAINT settings_pkey PRIMARY KEY,
    value TEXT NOT NULL
);
