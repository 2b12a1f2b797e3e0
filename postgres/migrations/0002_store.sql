-- Read models, and the rows that belong to them. Names are compared by their
-- bytes everywhere: COLLATE "C".

CREATE TABLE {schema}.store_control (
	one      boolean PRIMARY KEY DEFAULT true CHECK (one),
	revision bigint NOT NULL -- raised by every writing Update
) WITH (fillfactor = 10);
INSERT INTO {schema}.store_control VALUES (true, 0);

CREATE TABLE {schema}.processors (
	name           text COLLATE "C" PRIMARY KEY,
	kind           text NOT NULL,
	collection     text COLLATE "C" NOT NULL, -- of few processors: no index
	partitions     bigint NOT NULL,
	live           bigint NOT NULL,
	last_build     bigint NOT NULL,
	rebuild        bigint NOT NULL,
	rebuild_tenant text COLLATE "C" NOT NULL,
	retired        bigint[] NOT NULL,
	cross_tenant   boolean NOT NULL,
	version        text NOT NULL,
	paused         boolean NOT NULL
);

-- A build has a number of its own, so that a document names its build in eight
-- bytes, and a switch changes one row of processors and no document.
CREATE TABLE {schema}.builds (
	build_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	processor text COLLATE "C" NOT NULL,
	number    bigint NOT NULL,
	UNIQUE (processor, number)
);

-- doc is json and not jsonb because a document comes back as it was written, to
-- the byte. What is new is what changes most, so pages keep room for it.
CREATE TABLE {schema}.documents (
	build_no   bigint NOT NULL,
	tenant     text COLLATE "C" NOT NULL,
	id         text COLLATE "C" NOT NULL,
	version    bigint NOT NULL,
	position   bigint NOT NULL,
	updated_at timestamptz NOT NULL,
	doc        json NOT NULL,
	PRIMARY KEY (build_no, tenant, id)
) WITH (fillfactor = 85);

-- as_jsonb makes jsonb of any JSON text. There is JSON that jsonb cannot hold: the
-- character NUL, which reads as U+FFFD, and half surrogates and numbers beyond all
-- bounds, for which it returns NULL. No document fails the queries that meet it.
CREATE FUNCTION {schema}.as_jsonb(doc json) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL RESTRICTED AS $$
BEGIN
	RETURN doc::text::jsonb;
EXCEPTION WHEN data_exception THEN
	BEGIN
		RETURN regexp_replace(doc::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb;
	EXCEPTION WHEN data_exception THEN
		RETURN NULL;
	END;
END $$;

-- What is being served, for people and their SQL. A view or an index of one's
-- own on it is fine: WHERE collection = '...' reads that collection only.
CREATE VIEW {schema}.read_model AS
	SELECT p.collection, d.tenant, d.id, d.version, d.position, d.updated_at, {schema}.as_jsonb(d.doc) AS doc
	  FROM {schema}.processors p
	  JOIN {schema}.builds b ON b.processor = p.name AND b.number = p.live
	  JOIN {schema}.documents d USING (build_no)
	 WHERE p.collection <> '';

-- A row is rewritten by every commit of its lane. No index is on what changes,
-- and pages are kept half empty, so that the new version goes beside the old.
CREATE TABLE {schema}.lanes (
	processor  text COLLATE "C" NOT NULL,
	number     bigint NOT NULL,
	partition  bigint NOT NULL,
	tenant     text COLLATE "C" NOT NULL, -- '' for the base lane
	epoch      bigint NOT NULL,
	position   bigint NOT NULL,
	done       bytea,
	exclusions jsonb, -- {tenant: until}; 9223372036854775807: until further notice
	revision   bigint NOT NULL,
	state      text NOT NULL,
	reason     text NOT NULL,
	pinned     boolean NOT NULL,
	owner      text NOT NULL,
	applied_at timestamptz,
	updated_at timestamptz,
	PRIMARY KEY (processor, number, partition, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

-- Letters hold names that no text can hold: events are parked for their names.
CREATE TABLE {schema}.dead_letters (
	id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	processor    text COLLATE "C" NOT NULL,
	number       bigint NOT NULL,
	partition    bigint NOT NULL,
	tenant       bytea NOT NULL,
	key          bytea NOT NULL,
	state        text NOT NULL,
	retry        boolean NOT NULL,
	reason       text NOT NULL, -- a word
	error        bytea NOT NULL,
	attempts     bigint NOT NULL,
	at           timestamptz,
	position     bigint NOT NULL,
	event_id     bytea NOT NULL,
	event_tenant bytea NOT NULL,
	stream       bytea NOT NULL,
	version      bigint NOT NULL,
	type         bytea NOT NULL,
	occurred_at  timestamptz,
	recorded_at  timestamptz,
	metadata     bytea, -- lengths and bytes of keys and values
	data         bytea,
	withheld     bigint NOT NULL
);
CREATE INDEX dead_letters_by_build ON {schema}.dead_letters (processor, number, id);
-- An index cannot hold names of any length; their digests it can.
CREATE INDEX dead_letters_by_key ON {schema}.dead_letters (processor, number, md5(tenant), md5(key), id);

CREATE VIEW {schema}.letters AS
	SELECT id, processor, number, partition, encode(tenant, 'escape') AS tenant, encode(key, 'escape') AS key, state, retry, reason,
	       encode(error, 'escape') AS error, attempts, at, position, encode(stream, 'escape') AS stream, version,
	       encode(type, 'escape') AS type, occurred_at, recorded_at, data, withheld
	  FROM {schema}.dead_letters;

CREATE TABLE {schema}.members (
	id          text COLLATE "C" PRIMARY KEY,
	valid_until timestamptz,
	host        text NOT NULL,
	since       timestamptz,
	notes       text NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE {schema}.weights (tenant text COLLATE "C" PRIMARY KEY, weight double precision NOT NULL);

-- fence moves a lane on, if the lane is what the commit expects. Otherwise it
-- raises FL001, with what it found as the detail, and so ends the pipeline that
-- it is the first statement of. The SELECT after a refused UPDATE has a newer
-- snapshot: it sees what the UPDATE waited for.
CREATE FUNCTION {schema}.fence(
	of_processor text, of_number bigint, of_partition bigint, of_tenant text,
	expect_epoch bigint, expect_position bigint, expect_revision bigint,
	new_position bigint, new_done bytea, new_applied_at timestamptz, forget text[], exclude jsonb
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE found_row text;
BEGIN
	UPDATE {schema}.lanes
	   SET position = new_position, done = new_done, applied_at = coalesce(new_applied_at, applied_at), updated_at = now(),
	       revision = revision + CASE WHEN exclude IS NULL THEN 0 ELSE 1 END,
	       exclusions = CASE WHEN exclude IS NULL THEN exclusions ELSE coalesce(exclusions, '{}') - forget || exclude END
	 WHERE processor = of_processor AND number = of_number AND partition = of_partition AND tenant = of_tenant
	   AND epoch = expect_epoch AND position = expect_position AND revision = expect_revision;
	IF FOUND THEN RETURN; END IF;
	SELECT format('%s %s %s', epoch, position, revision) INTO found_row FROM {schema}.lanes
	 WHERE processor = of_processor AND number = of_number AND partition = of_partition AND tenant = of_tenant;
	RAISE EXCEPTION 'the lane is not as expected' USING ERRCODE = 'FL001', DETAIL = coalesce(found_row, '0 0 0');
END $$;

-- remove_letters deletes letters of a lane. Each must be there and the lane's;
-- otherwise it raises FL002, with the first that is not as the detail.
CREATE FUNCTION {schema}.remove_letters(of_processor text, of_number bigint, of_partition bigint, of_tenant bytea, ids bigint[])
RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE gone bigint[];
        missing bigint;
BEGIN
	WITH deleted AS (
		DELETE FROM {schema}.dead_letters
		 WHERE id = ANY (ids) AND processor = of_processor AND number = of_number AND partition = of_partition
		   AND (of_tenant = '' OR tenant = of_tenant)
		RETURNING id)
	SELECT array_agg(id) INTO gone FROM deleted;
	SELECT min(i) INTO missing FROM (SELECT unnest(ids) EXCEPT SELECT unnest(gone)) AS left_over(i);
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'dead letter % is not there, or another lane''s', missing USING ERRCODE = 'FL002', DETAIL = missing::text;
	END IF;
END $$;

-- delete_documents deletes documents of a build by their keys.
CREATE FUNCTION {schema}.delete_documents(of_processor text, of_number bigint, tenants text[], ids text[]) RETURNS void LANGUAGE plpgsql
-- Plans are made while tables are small, and kept while they grow.
SET enable_seqscan = off
AS $$
DECLARE no bigint := (SELECT build_no FROM {schema}.builds WHERE processor = of_processor AND number = of_number);
BEGIN
	DELETE FROM {schema}.documents AS d USING unnest(tenants, ids) AS k (tenant, id)
	 WHERE d.build_no = no AND d.tenant = k.tenant AND d.id = k.id;
END $$;
