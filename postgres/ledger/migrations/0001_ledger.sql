-- The route ledger: which sandboxes have registered, and from which positions of
-- the log on they own what is routed to them. Rows stay when a sandbox has gone: they
-- say the same of its events, until nobody can read these any more.

-- So that a store can tell that it is in the ledger's database.
CREATE TABLE {schema}.identity (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	id  text NOT NULL
);
INSERT INTO {schema}.identity VALUES (true, gen_random_uuid()::text);

CREATE TABLE {schema}.sandboxes (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	log        text COLLATE "C" NOT NULL,
	service    text COLLATE "C" NOT NULL,
	host       text COLLATE "C" NOT NULL,
	generation bigint NOT NULL,
	store      text NOT NULL,          -- the schema of its read models
	since      timestamptz NOT NULL,
	closed     timestamptz,            -- NULL: it is open
	lanes      text,                   -- of its store when it was closed: JSON
	UNIQUE (log, service, host, generation)
);
CREATE UNIQUE INDEX sandboxes_open ON {schema}.sandboxes (log, service, host) WHERE closed IS NULL;

-- Not in the row of its sandbox: commits of that lock the row, and a heartbeat is not
-- to wait for them.
CREATE TABLE {schema}.leases (
	sandbox     bigint PRIMARY KEY REFERENCES {schema}.sandboxes ON DELETE CASCADE,
	valid_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- begins is NULL while the end of the log partition has not been read.
CREATE TABLE {schema}.spans (
	sandbox   bigint NOT NULL REFERENCES {schema}.sandboxes ON DELETE CASCADE,
	partition bigint NOT NULL,
	begins    bigint,
	PRIMARY KEY (sandbox, partition)
);

-- still_open is in every commit of a sandbox's store. It raises FL010 unless the
-- registration is open, and keeps it open until the commit has ended.
CREATE FUNCTION {schema}.still_open(sandbox bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM FROM {schema}.sandboxes s WHERE s.id = sandbox AND s.closed IS NULL FOR SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'the registration % of the sandbox is closed', sandbox USING ERRCODE = 'FL010';
	END IF;
END $$;

-- Routes that have names, for people who test: which sandbox for which service.
CREATE TABLE {schema}.routes (
	name  text COLLATE "C" PRIMARY KEY,
	route text NOT NULL -- JSON: {service: host}
);
