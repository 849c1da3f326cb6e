-- Signed-in sessions: one row each, updated in place, however often it is refreshed.
CREATE TABLE {namespace}sessions (
    id                  UUID        NOT NULL CONSTRAINT sessions_pkey PRIMARY KEY,
    -- The application's own id of the user.
    user_id             TEXT        NOT NULL COLLATE "C",
    -- 'browser' or 'client'.
    kind                TEXT        NOT NULL,
    -- The user's address and roles, so that a refresh touches no other row.
    email               TEXT        NOT NULL,
    roles               TEXT        NOT NULL,
    -- From 1; a refresh token has 32 bits for it.
    generation          BIGINT      NOT NULL,
    -- The key that signs the current refresh token.
    key_number          SMALLINT    NOT NULL,
    created_at          TIMESTAMPTZ NOT NULL,
    rotated_at          TIMESTAMPTZ NOT NULL,
    -- The access token that accompanied the refresh token of the last refresh.
    asked_by            UUID,
    asked_by_issued_at  TIMESTAMPTZ,
    -- The access token of this generation whose use was confirmed.
    settled_by          UUID,
    rotations           BIGINT      NOT NULL,
    replays             BIGINT      NOT NULL,
    idle_expires_at     TIMESTAMPTZ NOT NULL,
    absolute_expires_at TIMESTAMPTZ NOT NULL,
    ended_at            TIMESTAMPTZ,
    end_reason          TEXT,
    -- The client of the last refresh.
    address             TEXT,
    user_agent          TEXT,
    -- The time at which this server recorded the end, by its own clock. NULL for sessions that expired.
    end_recorded_at     TIMESTAMPTZ,
    -- A JSON object of the application's.
    claims              TEXT
)
-- Room on each page for the next version of a row, so that a refresh stays on its page and leaves the indexes alone.
WITH (fillfactor = 70);

-- The sessions of a user: listed, counted against the limit, ended together.
CREATE INDEX sessions_user_id ON {namespace}sessions (user_id);
-- The sessions that ended lately. A refresh touches neither index.
CREATE INDEX sessions_ended_at ON {namespace}sessions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_end_recorded_at ON {namespace}sessions (end_recorded_at) WHERE end_recorded_at IS NOT NULL;

-- Audit log: one row for each event. Rows are added and purged, but never changed.
CREATE TABLE {namespace}audit (
    id                UUID        NOT NULL DEFAULT gen_random_uuid() CONSTRAINT audit_pkey PRIMARY KEY,
    at                TIMESTAMPTZ NOT NULL,
    event             TEXT        NOT NULL,
    user_id           TEXT        COLLATE "C",
    session_id        UUID,
    -- The generation of the token that was presented, and that of the session.
    presented         BIGINT,
    held              BIGINT,
    key_number        SMALLINT,
    -- The client that caused the event, and its request.
    address           TEXT,
    user_agent        TEXT,
    request_id        TEXT,
    -- The client of the session's last refresh.
    holder_address    TEXT,
    holder_user_agent TEXT
);

CREATE INDEX audit_session_id ON {namespace}audit (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX audit_at ON {namespace}audit (at);

CREATE FUNCTION {namespace}refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'rows of the audit are never changed'; END $$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON {namespace}audit
FOR EACH ROW EXECUTE FUNCTION {namespace}refuse_change();

-- Settings that all processes on this database share.
CREATE TABLE {namespace}settings (
    name  TEXT NOT NULL CONSTRAINT settings_pkey PRIMARY KEY,
    value TEXT NOT NULL
);
