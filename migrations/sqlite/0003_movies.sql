-- Movies of the reference application.
CREATE TABLE movies (
    -- AUTOINCREMENT: the id of a deleted movie is never given again.
    id              INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    title           TEXT    NOT NULL,
    -- Title and director in lower case (by the program, which knows more than ASCII): what is
    -- searched and sorted.
    title_key       TEXT    NOT NULL,
    year            INTEGER NOT NULL,
    director        TEXT    NOT NULL,
    director_key    TEXT    NOT NULL,
    runtime_minutes INTEGER,
    rating          REAL
) STRICT;
