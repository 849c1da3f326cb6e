-- Who may sign in. Ids are 16 bytes; times are Unix microseconds, UTC.
CREATE TABLE users (
    id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- In lower case; no two users share one.
    email           TEXT    NOT NULL UNIQUE,
    name            TEXT,
    -- bcrypt, or passlib's bcrypt-sha256.
    hashed_password TEXT    NOT NULL,
    -- 'admin' or 'user'.
    role            TEXT    NOT NULL,
    -- Since when the user may not sign in.
    disabled_at     INTEGER,
    created_at      INTEGER NOT NULL
) STRICT;
