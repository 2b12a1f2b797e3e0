-- Partitions can be split and merged: a lane says which modulus its partition has
-- (0: the processor's), which one an operator wants instead (0: none), and where
-- it stands still for a merge (0: nowhere).
ALTER TABLE {schema}.lanes
	ADD COLUMN modulus bigint NOT NULL DEFAULT 0,
	ADD COLUMN wanted  bigint NOT NULL DEFAULT 0,
	ADD COLUMN stop_at bigint NOT NULL DEFAULT 0;
