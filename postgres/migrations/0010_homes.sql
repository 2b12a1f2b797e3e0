-- A lane says whose it is while another works it: the name of the member that is
-- away to be restarted. '': nobody's in particular.
ALTER TABLE {schema}.lanes ADD COLUMN home text NOT NULL DEFAULT '';
