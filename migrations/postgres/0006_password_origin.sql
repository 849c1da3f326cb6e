-- Who computed users.hashed_password: 'own' or 'imported'. NULL, from before this column, counts as 'own'.
ALTER TABLE myapi.users ADD COLUMN password_origin TEXT;
