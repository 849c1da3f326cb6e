-- When this server recorded the end of a session, by its own clock. ended_at has the time of the process that
-- ended the session, whose clock may be wrong. NULL for sessions that expired.
ALTER TABLE myapi.sessions ADD COLUMN end_recorded_at TIMESTAMPTZ;
UPDATE myapi.sessions SET end_recorded_at = ended_at
    WHERE ended_at IS NOT NULL AND end_reason NOT IN ('idle_expired', 'absolute_expired');

-- What has ended lately. A renewal does not touch it.
CREATE INDEX sessions_end_recorded_at ON myapi.sessions (end_recorded_at) WHERE end_recorded_at IS NOT NULL;
