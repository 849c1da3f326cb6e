-- Signed-in sessions: one row each, updated in place, however often it is refreshed.
CREATE TABLE {namespace}sessions (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- The application's own id of the user.
    user_id             TEXT    NOT NULL,
    -- 'browser' or 'client'.
    kind                TEXT    NOT NULL,
    -- The user's address and roles, so that a refresh touches no other row.
    email               TEXT    NOT NULL,
    roles               TEXT    NOT NULL,
    -- From 1; a refresh token has 32 bits for it.
    generation          INTEGER NOT NULL,
    -- The key that signs the current refresh token.
    key_number          INTEGER NOT NULL,
    created_at          INTEGER NOT NULL,
    rotated_at          INTEGER NOT NULL,
    -- The access token that accompanied the refresh token of the last refresh.
    asked_by            BLOB    CHECK (length(asked_by) = 16),
    asked_by_issued_at  INTEGER,
    -- The access token of this generation whose use was confirmed.
    settled_by          BLOB    CHECK (length(settled_by) = 16),
    rotations           INTEGER NOT NULL,
    replays             INTEGER NOT NULL,
    idle_expires_at     INTEGER NOT NULL,
    absolute_expires_at INTEGER NOT NULL,
    ended_at            INTEGER,
    end_reason          TEXT,
    -- The client of the last refresh.
    address             TEXT,
    user_agent          TEXT,
    -- A JSON object of the application's.
    claims              TEXT
) STRICT;

-- The sessions of a user: listed, counted against the limit, ended together.
CREATE INDEX {namespace}sessions_user_id ON {namespace}sessions (user_id);
-- The sessions that ended lately. A refresh touches neither index.
CREATE INDEX {namespace}sessions_ended_at ON {namespace}sessions (ended_at) WHERE ended_at IS NOT NULL;

-- Audit log: one row for each event. Rows are added and purged, but never changed.
CREATE TABLE {namespace}audit (
    id                INTEGER NOT NULL PRIMARY KEY,
    at                INTEGER NOT NULL,
    event             TEXT    NOT NULL,
    user_id           TEXT,
    session_id        BLOB    CHECK (length(session_id) = 16),
    -- The generation of the token that was presented, and that of the session.
    presented         INTEGER,
    held              INTEGER,
    key_number        INTEGER,
    -- The client that caused the event, and its request.
    address           TEXT,
    user_agent        TEXT,
    request_id        TEXT,
    -- The client of the session's last refresh.
    holder_address    TEXT,
    holder_user_agent TEXT
) STRICT;

CREATE INDEX {namespace}audit_session_id ON {namespace}audit (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX {namespace}audit_at ON {namespace}audit (at);

CREATE TRIGGER {namespace}audit_is_append_only BEFORE UPDATE ON {namespace}audit
BEGIN
    SELECT RAISE(ABORT, 'rows of the audit are never changed');
END;

-- Settings that all processes on this database share.
CREATE TABLE {namespace}settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
