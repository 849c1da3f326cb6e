-- What happened to whose access: one row for each event. Rows are added and one day purged; none is
-- ever changed.
CREATE TABLE audit (
    id                INTEGER NOT NULL PRIMARY KEY,
    at                INTEGER NOT NULL,
    -- The word that the log, the metric and X-Session-Event have too.
    event             TEXT    NOT NULL,
    user_id           BLOB    CHECK (length(user_id) = 16),
    session_id        BLOB    CHECK (length(session_id) = 16),
    -- The generation of the token that was presented, and that of the session.
    presented         INTEGER,
    held              INTEGER,
    key_number        INTEGER,
    -- Who did it, and in which request.
    address           TEXT,
    user_agent        TEXT,
    request_id        TEXT,
    -- Who had asked for the generation that the session was at.
    holder_address    TEXT,
    holder_user_agent TEXT
) STRICT;

CREATE INDEX audit_session_id ON audit (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX audit_at ON audit (at);

CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'rows of the audit are never changed');
END;
