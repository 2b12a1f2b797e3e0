-- What a processor's row says of builds beside the live one: JSON, as text
-- because nothing in SQL looks into it.
ALTER TABLE {schema}.processors ADD COLUMN builds text NOT NULL DEFAULT '';
