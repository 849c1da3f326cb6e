-- What happened to whose access: one row for each event. Rows are added and one day purged; none is
-- ever changed. (A role that may only SELECT and INSERT here is enough to serve; then purging is left
-- to another one.)
CREATE TABLE myapi.audit (
    id                UUID        NOT NULL DEFAULT gen_random_uuid() CONSTRAINT audit_pkey PRIMARY KEY,
    at                TIMESTAMPTZ NOT NULL,
    -- The word that the log, the metric and X-Session-Event have too.
    event             TEXT        NOT NULL,
    user_id           UUID,
    session_id        UUID,
    -- The generation of the token that was presented, and that of the session.
    presented         BIGINT,
    held              BIGINT,
    key_number        SMALLINT,
    -- Who did it, and in which request.
    address           TEXT,
    user_agent        TEXT,
    request_id        TEXT,
    -- Who had asked for the generation that the session was at.
    holder_address    TEXT,
    holder_user_agent TEXT
);

CREATE INDEX audit_session_id ON myapi.audit (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX audit_at ON myapi.audit (at);

CREATE FUNCTION myapi.refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'rows of the audit are never changed'; END $$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON myapi.audit
FOR EACH ROW EXECUTE FUNCTION myapi.refuse_change();
