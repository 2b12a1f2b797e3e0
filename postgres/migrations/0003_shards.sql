-- In which shard a tenant is, where tenants are spread over several stores. Only
-- the control store has rows here.
CREATE TABLE {schema}.shards (
	tenant text COLLATE "C" PRIMARY KEY,
	shard  text COLLATE "C" NOT NULL
);
CREATE INDEX shards_by_name ON {schema}.shards (shard);
