-- Users are named by text, so that applications can use ids of their own. Ids from before, which are those of
-- the table users, become UUIDs in lower case with hyphens.
ALTER TABLE myapi.sessions ALTER COLUMN user_id TYPE TEXT COLLATE "C" USING user_id::text;
ALTER TABLE myapi.audit ALTER COLUMN user_id TYPE TEXT COLLATE "C" USING user_id::text;

-- The application's own claims for access tokens: a JSON object, or NULL.
ALTER TABLE myapi.sessions ADD COLUMN claims TEXT;
