-- Who may sign in.
CREATE TABLE myapi.users (
    id              UUID        NOT NULL CONSTRAINT users_pkey PRIMARY KEY,
    -- In lower case; no two users share one.
    email           TEXT        NOT NULL CONSTRAINT users_email_key UNIQUE,
    name            TEXT,
    -- bcrypt, or passlib's bcrypt-sha256.
    hashed_password TEXT        NOT NULL,
    -- 'admin' or 'user'.
    role            TEXT        NOT NULL,
    -- Since when the user may not sign in.
    disabled_at     TIMESTAMPTZ,
    created_at      TIMESTAMPTZ NOT NULL
);
