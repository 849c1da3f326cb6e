-- Movies of the reference application.
CREATE TABLE myapi.movies (
    -- The id of a deleted movie is never given again.
    id              BIGINT GENERATED ALWAYS AS IDENTITY CONSTRAINT movies_pkey PRIMARY KEY,
    title           TEXT             NOT NULL,
    -- Title and director in lower case (by the program, whatever the locale here): what is
    -- searched and sorted, by code point.
    title_key       TEXT COLLATE "C" NOT NULL,
    year            INTEGER          NOT NULL,
    director        TEXT             NOT NULL,
    director_key    TEXT COLLATE "C" NOT NULL,
    runtime_minutes INTEGER,
    rating          DOUBLE PRECISION
);
