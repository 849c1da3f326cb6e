-- PostgreSQL records the end of a session by its own clock here. SQLite has none: the order of the audit entries
-- says which sessions have ended since.
SELECT 1;
