-- Signed-in sessions: one row each, updated in place, however often it is renewed.
-- No foreign key: a session stays until purged, also when its user is deleted.
CREATE TABLE sessions (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    user_id             BLOB    NOT NULL CHECK (length(user_id) = 16),
    -- 'browser' or 'client'.
    kind                TEXT    NOT NULL,
    -- The user's address and roles, so that a renewal touches no other row.
    email               TEXT    NOT NULL,
    roles               TEXT    NOT NULL,
    -- From 1; a refresh token has 32 bits for it.
    generation          INTEGER NOT NULL,
    -- The key that signs the current refresh token.
    key_number          INTEGER NOT NULL,
    created_at          INTEGER NOT NULL,
    rotated_at          INTEGER NOT NULL,
    -- The access token that lay beside the refresh token that asked for this generation.
    asked_by            BLOB    CHECK (length(asked_by) = 16),
    asked_by_issued_at  INTEGER,
    -- The access token of this generation that was seen in lasting use.
    settled_by          BLOB    CHECK (length(settled_by) = 16),
    rotations           INTEGER NOT NULL,
    replays             INTEGER NOT NULL,
    idle_expires_at     INTEGER NOT NULL,
    absolute_expires_at INTEGER NOT NULL,
    ended_at            INTEGER,
    end_reason          TEXT,
    -- Who asked for this generation.
    address             TEXT,
    user_agent          TEXT
) STRICT;

-- A user's sessions: listed, counted against the limit, ended together.
CREATE INDEX sessions_user_id ON sessions (user_id);
-- What has ended lately. A renewal touches neither index.
CREATE INDEX sessions_ended_at ON sessions (ended_at) WHERE ended_at IS NOT NULL;
