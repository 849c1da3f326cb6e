-- Signed-in sessions: one row each, updated in place, however often it is renewed.
-- No foreign key: a session stays until purged, also when its user is deleted.
CREATE TABLE myapi.sessions (
    id                  UUID        NOT NULL CONSTRAINT sessions_pkey PRIMARY KEY,
    user_id             UUID        NOT NULL,
    -- 'browser' or 'client'.
    kind                TEXT        NOT NULL,
    -- The user's address and roles, so that a renewal touches no other row.
    email               TEXT        NOT NULL,
    roles               TEXT        NOT NULL,
    -- From 1; a refresh token has 32 bits for it.
    generation          BIGINT      NOT NULL,
    -- The key that signs the current refresh token.
    key_number          SMALLINT    NOT NULL,
    created_at          TIMESTAMPTZ NOT NULL,
    rotated_at          TIMESTAMPTZ NOT NULL,
    -- The access token that lay beside the refresh token that asked for this generation.
    asked_by            UUID,
    asked_by_issued_at  TIMESTAMPTZ,
    -- The access token of this generation that was seen in lasting use.
    settled_by          UUID,
    rotations           BIGINT      NOT NULL,
    replays             BIGINT      NOT NULL,
    idle_expires_at     TIMESTAMPTZ NOT NULL,
    absolute_expires_at TIMESTAMPTZ NOT NULL,
    ended_at            TIMESTAMPTZ,
    end_reason          TEXT,
    -- Who asked for this generation.
    address             TEXT,
    user_agent          TEXT
)
-- Room on each page for a row's next version, so that a renewal stays on its page and leaves the
-- indexes alone.
WITH (fillfactor = 70);

-- A user's sessions: listed, counted against the limit, ended together.
CREATE INDEX sessions_user_id ON myapi.sessions (user_id);
-- What has ended lately. A renewal touches neither index.
CREATE INDEX sessions_ended_at ON myapi.sessions (ended_at) WHERE ended_at IS NOT NULL;
