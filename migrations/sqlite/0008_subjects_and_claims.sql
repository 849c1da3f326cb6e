-- Users are named by text, so that applications can use ids of their own. Ids from before, which are those of
-- the table users, become UUIDs in lower case with hyphens. SQLite cannot change the type of a column, so the
-- tables are copied.
CREATE TABLE new_sessions (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    user_id             TEXT    NOT NULL,
    kind                TEXT    NOT NULL,
    email               TEXT    NOT NULL,
    roles               TEXT    NOT NULL,
    generation          INTEGER NOT NULL,
    key_number          INTEGER NOT NULL,
    created_at          INTEGER NOT NULL,
    rotated_at          INTEGER NOT NULL,
    asked_by            BLOB    CHECK (length(asked_by) = 16),
    asked_by_issued_at  INTEGER,
    settled_by          BLOB    CHECK (length(settled_by) = 16),
    rotations           INTEGER NOT NULL,
    replays             INTEGER NOT NULL,
    idle_expires_at     INTEGER NOT NULL,
    absolute_expires_at INTEGER NOT NULL,
    ended_at            INTEGER,
    end_reason          TEXT,
    address             TEXT,
    user_agent          TEXT,
    -- The application's own claims for access tokens: a JSON object, or NULL.
    claims              TEXT
) STRICT;

INSERT INTO new_sessions (id, user_id, kind, email, roles, generation, key_number, created_at, rotated_at,
    asked_by, asked_by_issued_at, settled_by, rotations, replays, idle_expires_at, absolute_expires_at,
    ended_at, end_reason, address, user_agent)
SELECT id,
    substr(lower(hex(user_id)), 1, 8) || '-' || substr(lower(hex(user_id)), 9, 4) || '-'
        || substr(lower(hex(user_id)), 13, 4) || '-' || substr(lower(hex(user_id)), 17, 4) || '-'
        || substr(lower(hex(user_id)), 21),
    kind, email, roles, generation, key_number, created_at, rotated_at, asked_by, asked_by_issued_at,
    settled_by, rotations, replays, idle_expires_at, absolute_expires_at, ended_at, end_reason, address,
    user_agent
FROM sessions;

DROP TABLE sessions;
ALTER TABLE new_sessions RENAME TO sessions;

CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_ended_at ON sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE new_audit (
    -- The positions of the revocation list, so the copies keep them.
    id                INTEGER NOT NULL PRIMARY KEY,
    at                INTEGER NOT NULL,
    event             TEXT    NOT NULL,
    user_id           TEXT,
    session_id        BLOB    CHECK (length(session_id) = 16),
    presented         INTEGER,
    held              INTEGER,
    key_number        INTEGER,
    address           TEXT,
    user_agent        TEXT,
    request_id        TEXT,
    holder_address    TEXT,
    holder_user_agent TEXT
) STRICT;

INSERT INTO new_audit (id, at, event, user_id, session_id, presented, held, key_number, address, user_agent,
    request_id, holder_address, holder_user_agent)
SELECT id, at, event,
    -- hex() of NULL is the empty text.
    CASE WHEN user_id IS NOT NULL THEN
        substr(lower(hex(user_id)), 1, 8) || '-' || substr(lower(hex(user_id)), 9, 4) || '-'
            || substr(lower(hex(user_id)), 13, 4) || '-' || substr(lower(hex(user_id)), 17, 4) || '-'
            || substr(lower(hex(user_id)), 21)
    END,
    session_id, presented, held, key_number, address, user_agent, request_id, holder_address,
    holder_user_agent
FROM audit;

DROP TABLE audit;
ALTER TABLE new_audit RENAME TO audit;

CREATE INDEX audit_session_id ON audit (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX audit_at ON audit (at);

CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'rows of the audit are never changed');
END;
