-- The event log. In all migrations {schema} stands for the quoted name of the
-- schema, {schema_text} for the name as a string.

-- A stream's row is its lock: whoever appends locks it before a position is
-- drawn, so positions of a stream ascend with its versions.
CREATE TABLE {schema}.streams (
    tenant  text COLLATE "C" NOT NULL,
    stream  text COLLATE "C" NOT NULL,
    version bigint NOT NULL,           -- of the last event; deleted ones count
    floor   bigint NOT NULL DEFAULT 0, -- the highest version that was deleted
    PRIMARY KEY (tenant, stream)
) WITH (fillfactor = 80);

-- Readers rely on this: a position is drawn by the INSERT itself, one by one
-- (CACHE 1), under the lock that every INSERT takes on the table first.
CREATE TABLE {schema}.events (
    position    bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
    version     bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant      text COLLATE "C" NOT NULL,
    stream      text COLLATE "C" NOT NULL,
    type        text COLLATE "C" NOT NULL,
    id          text COLLATE "C", -- NULL: the one derived from tenant, stream and version
    metadata    text,             -- a JSON object; NULL: empty. What JSON cannot say is \x and hex
    data        text,             -- a payload that is text, to the byte: query it as data::jsonb
    raw         bytea,            -- a payload that is not
    CONSTRAINT events_position PRIMARY KEY (position)
);
CREATE UNIQUE INDEX events_stream ON {schema}.events (tenant, stream, version);
CREATE INDEX events_tenant ON {schema}.events (tenant, position);
CREATE UNIQUE INDEX events_id ON {schema}.events (id) WHERE id IS NOT NULL;

-- Deleted events keep their ids.
CREATE TABLE {schema}.removed_ids (
    id      text COLLATE "C" PRIMARY KEY,
    tenant  text COLLATE "C" NOT NULL,
    stream  text COLLATE "C" NOT NULL,
    version bigint NOT NULL
);
CREATE INDEX removed_ids_stream ON {schema}.removed_ids (tenant, stream, version);

-- removed: the highest position that was deleted. Readers that have not passed
-- it stop, unless accepted says that they may pass over the hole.
CREATE TABLE {schema}.removed (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    removed  bigint NOT NULL DEFAULT 0,
    accepted bigint NOT NULL DEFAULT 0
);
INSERT INTO {schema}.removed DEFAULT VALUES;

-- safe: below it every gap is known to be dead. It may lag behind.
CREATE TABLE {schema}.safe_head (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    safe bigint NOT NULL DEFAULT 0
);
INSERT INTO {schema}.safe_head DEFAULT VALUES;

CREATE FUNCTION {schema}.note_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM gone) THEN
        RETURN NULL;
    END IF;
    UPDATE {schema}.removed SET removed = greatest(removed, (SELECT max(position) FROM gone));
    INSERT INTO {schema}.removed_ids(id, tenant, stream, version)
        SELECT id, tenant, stream, version FROM gone WHERE id IS NOT NULL
        ON CONFLICT DO NOTHING;
    UPDATE {schema}.streams s SET floor = greatest(s.floor, g.version)
        FROM (SELECT tenant, stream, max(version) AS version FROM gone GROUP BY tenant, stream) g
        WHERE s.tenant = g.tenant AND s.stream = g.stream;
    RETURN NULL;
END $$;
CREATE TRIGGER note_delete AFTER DELETE ON {schema}.events
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION {schema}.note_delete();

CREATE FUNCTION {schema}.note_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {schema}.removed SET removed = greatest(removed, (SELECT max(position) FROM {schema}.events));
    INSERT INTO {schema}.removed_ids(id, tenant, stream, version)
        SELECT id, tenant, stream, version FROM {schema}.events WHERE id IS NOT NULL
        ON CONFLICT DO NOTHING;
    UPDATE {schema}.streams SET floor = version;
    RETURN NULL;
END $$;
CREATE TRIGGER note_truncate BEFORE TRUNCATE ON {schema}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.note_truncate();

-- append appends to streams, each named once in r_, in byte order. A part p_ is
-- one StreamAppend: p_ref is its stream, p_expected the version it wants (NULL:
-- any), p_count how many of the events e_ are its own, p_ids whether one of them
-- has an id. e_own is the version of an event whose id is its derived one; e_id is
-- then NULL.
--
-- status is 'ok', 'conflict' (version: that found), 'duplicate' or 'reserved'
-- (id: which). Unless it is 'ok' nothing has changed.
--
-- It does not NOTIFY: such a transaction cannot be prepared, and waits for all
-- others that do so until their commits are on the disk.
CREATE FUNCTION {schema}.append(
    r_tenant text[], r_stream text[],
    p_ref integer[], p_expected bigint[], p_count integer[], p_ids boolean[],
    e_type text[], e_occurred timestamptz[], e_id text[], e_own bigint[],
    e_metadata text[], e_data text[], e_raw bytea[],
    OUT status text, OUT o_part integer, OUT o_version bigint, OUT o_id text, OUT o_position bigint
) LANGUAGE plpgsql
-- Plans are made once, while tables may be small, and kept while they grow.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    base    bigint[] := '{}'; -- versions before this call
    cur     bigint[] := '{}'; -- and with the parts so far
    p_first bigint[] := '{}'; -- version of the first event of a part; NULL: it is known
    made    boolean  := false;
    v       bigint;
    r       integer;
    lo      integer := 1;
    hi      integer;
    ids     record;
BEGIN
    status := 'ok';
    o_position := 0;
    -- In byte order, so two appends never wait for each other.
    FOR r IN 1 .. cardinality(r_tenant) LOOP
        LOOP
            SELECT s.version INTO v FROM {schema}.streams s
                WHERE s.tenant = r_tenant[r] AND s.stream = r_stream[r] FOR NO KEY UPDATE;
            EXIT WHEN FOUND;
            INSERT INTO {schema}.streams(tenant, stream, version) VALUES (r_tenant[r], r_stream[r], 0)
                ON CONFLICT DO NOTHING;
            IF FOUND THEN
                v := 0;
                made := true;
                EXIT;
            END IF;
        END LOOP;
        base[r] := v;
    END LOOP;
    cur := base;

    FOR p IN 1 .. cardinality(p_ref) LOOP
        o_part := p;
        r := p_ref[p];
        hi := lo + p_count[p] - 1;
        p_first[p] := cur[r] + 1;
        -- Most are new: that is known sooner than which is which.
        IF p_ids[p] AND EXISTS (
            SELECT FROM unnest(e_id[lo:hi], e_own[lo:hi]) u(id, own)
                WHERE EXISTS (SELECT FROM {schema}.events e WHERE e.id = u.id)
                    OR EXISTS (SELECT FROM {schema}.removed_ids g WHERE g.id = u.id)
                    OR u.own <= base[r]
        ) THEN
            SELECT count(*) AS n, count(k.version) AS known,
                    (array_agg(k.id ORDER BY k.ord) FILTER (WHERE k.version IS NOT NULL))[1] AS taken,
                    (array_agg(k.id ORDER BY k.ord) FILTER (WHERE k.elsewhere))[1] AS elsewhere,
                    (array_agg(k.version ORDER BY k.ord DESC))[1] + p_count[p] - max(k.ord) AS last
                INTO ids
                FROM (
                    SELECT u.ord, u.id, x.version, (x.tenant, x.stream) <> (r_tenant[r], r_stream[r]) AS elsewhere
                        FROM unnest(e_id[lo:hi]) WITH ORDINALITY u(id, ord)
                        LEFT JOIN LATERAL (
                            SELECT e.tenant, e.stream, e.version FROM {schema}.events e WHERE e.id = u.id
                            UNION ALL
                            SELECT g.tenant, g.stream, g.version FROM {schema}.removed_ids g WHERE g.id = u.id
                        ) x ON true
                        WHERE u.id IS NOT NULL
                    UNION ALL
                    -- An event whose own id was given is not known by its derived one.
                    SELECT u.ord, octet_length(r_tenant[r]) || ':' || r_tenant[r] || '/' || r_stream[r] || '@' || u.own,
                            CASE WHEN u.own BETWEEN 1 AND base[r]
                                AND NOT EXISTS (SELECT FROM {schema}.events e WHERE e.tenant = r_tenant[r]
                                    AND e.stream = r_stream[r] AND e.version = u.own AND e.id IS NOT NULL)
                                AND NOT EXISTS (SELECT FROM {schema}.removed_ids g WHERE g.tenant = r_tenant[r]
                                    AND g.stream = r_stream[r] AND g.version = u.own)
                            THEN u.own END, false
                        FROM unnest(e_own[lo:hi]) WITH ORDINALITY u(own, ord)
                        WHERE u.own IS NOT NULL
                ) k;
            IF ids.elsewhere IS NOT NULL OR ids.known BETWEEN 1 AND ids.n - 1 THEN
                status := 'duplicate';
                o_id := coalesce(ids.elsewhere, ids.taken);
            ELSIF ids.known > 0 THEN
                p_first[p] := NULL;
                -- What is gone is covered by the last position that is gone.
                o_position := greatest(o_position, coalesce(
                    (SELECT e.position FROM {schema}.events e WHERE e.tenant = r_tenant[r]
                        AND e.stream = r_stream[r] AND e.version = least(ids.last, base[r])),
                    (SELECT m.removed FROM {schema}.removed m)));
            END IF;
        END IF;
        IF status = 'ok' AND p_first[p] IS NOT NULL THEN
            IF p_expected[p] <> cur[r] THEN
                status := 'conflict';
                o_version := cur[r];
            ELSIF p_ids[p] THEN
                SELECT octet_length(r_tenant[r]) || ':' || r_tenant[r] || '/' || r_stream[r] || '@' || u.own INTO o_id
                    FROM unnest(e_own[lo:hi]) WITH ORDINALITY u(own, ord)
                    WHERE u.own <> cur[r] + u.ord ORDER BY u.ord LIMIT 1;
                IF FOUND THEN
                    status := 'reserved';
                END IF;
            END IF;
            cur[r] := cur[r] + p_count[p];
        END IF;
        IF status <> 'ok' THEN
            IF made THEN
                DELETE FROM {schema}.streams s USING unnest(r_tenant, r_stream) x(tenant, stream)
                    WHERE s.tenant = x.tenant AND s.stream = x.stream AND s.version = 0;
            END IF;
            RETURN;
        END IF;
        lo := hi + 1;
    END LOOP;
    IF cur = base THEN
        RETURN;
    END IF;

    IF cardinality(e_type) = 1 THEN
        INSERT INTO {schema}.events(tenant, stream, version, type, occurred_at, id, metadata, data, raw)
            VALUES (r_tenant[1], r_stream[1], cur[1], e_type[1], coalesce(e_occurred[1], clock_timestamp()),
                e_id[1], e_metadata[1], e_data[1], e_raw[1])
            RETURNING position INTO o_position;
    ELSIF cardinality(p_ref) = 1 THEN
        WITH i AS (
            INSERT INTO {schema}.events(tenant, stream, version, type, occurred_at, id, metadata, data, raw)
                SELECT r_tenant[1], r_stream[1], p_first[1] + u.ord - 1, u.type, coalesce(u.occurred, clock_timestamp()),
                        u.id, u.metadata, u.data, u.raw
                    FROM unnest(e_type, e_occurred, e_id, e_metadata, e_data, e_raw)
                        WITH ORDINALITY u(type, occurred, id, metadata, data, raw, ord)
                    ORDER BY u.ord
                RETURNING position
        ) SELECT max(i.position) INTO o_position FROM i;
    ELSE
        WITH i AS (
            INSERT INTO {schema}.events(tenant, stream, version, type, occurred_at, id, metadata, data, raw)
                SELECT x.tenant, x.stream, y.first + u.ord - y.lo, u.type, coalesce(u.occurred, clock_timestamp()),
                        u.id, u.metadata, u.data, u.raw
                    FROM unnest(e_type, e_occurred, e_id, e_metadata, e_data, e_raw)
                        WITH ORDINALITY u(type, occurred, id, metadata, data, raw, ord)
                    JOIN (
                        SELECT z.ref, z.first, sum(z.n) OVER (ORDER BY z.p) - z.n + 1 AS lo, sum(z.n) OVER (ORDER BY z.p) AS hi
                            FROM unnest(p_ref, p_first, p_count) WITH ORDINALITY z(ref, first, n, p)
                    ) y ON u.ord BETWEEN y.lo AND y.hi
                    JOIN unnest(r_tenant, r_stream) WITH ORDINALITY x(tenant, stream, ref) ON x.ref = y.ref
                    WHERE y.first IS NOT NULL
                    ORDER BY u.ord
                RETURNING position
        ) SELECT max(i.position) INTO v FROM i;
        o_position := greatest(o_position, v);
    END IF;
    IF cardinality(r_tenant) = 1 THEN
        UPDATE {schema}.streams s SET version = cur[1] WHERE s.tenant = r_tenant[1] AND s.stream = r_stream[1];
    ELSE
        UPDATE {schema}.streams s SET version = x.version
            FROM unnest(r_tenant, r_stream, cur) x(tenant, stream, version)
            WHERE s.tenant = x.tenant AND s.stream = x.stream AND s.version <> x.version;
    END IF;
END $$;

-- find returns the positions in (after, upto] of the events that a filter selects,
-- in order and at most so many, and the position up to which that is all of them.
-- It gives up behind the first window with which it has looked at so many events.
-- few are some tenants to be found by the index; tenants any number; NULL: all.
--
-- The windows, and not the planner's guess of how many events there are, say how
-- much is read at once.
CREATE FUNCTION {schema}.find(
    few text[], tenants text[], exclude text[], types text[],
    after bigint, upto bigint, most integer, look integer,
    OUT positions bigint[], OUT reached bigint
) LANGUAGE plpgsql STABLE
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    step     bigint := 4096;
    hi       bigint;
    examined bigint := 0;
    found    bigint[];
    n        bigint;
BEGIN
    positions := '{}';
    reached := after;
    WHILE reached < upto AND cardinality(positions) < most AND examined < look LOOP
        hi := least(upto, reached + step);
        IF few IS NULL THEN
            -- Hashed, because there may be thousands of names.
            SELECT array_agg(x.position ORDER BY x.position) FILTER (WHERE x.wanted), count(*) INTO found, n FROM (
                SELECT e.position, (tenants IS NULL OR e.tenant IN (SELECT unnest(tenants)))
                    AND (exclude IS NULL OR e.tenant NOT IN (SELECT unnest(exclude)))
                    AND (types IS NULL OR e.type IN (SELECT unnest(types))) AS wanted
                FROM {schema}.events e WHERE e.position > reached AND e.position <= hi
            ) x;
        ELSIF types IS NULL THEN
            -- Rows are compared so that no other index than that of the tenants fits.
            SELECT array_agg(e.position ORDER BY e.position), count(*) INTO found, n
                FROM unnest(few) t(tenant) JOIN {schema}.events e ON e.tenant = t.tenant
                    AND (e.tenant, e.position) > (t.tenant, reached) AND (e.tenant, e.position) <= (t.tenant, hi);
        ELSE
            SELECT array_agg(x.position ORDER BY x.position) FILTER (WHERE x.wanted), count(*) INTO found, n FROM (
                SELECT e.position, e.type IN (SELECT unnest(types)) AS wanted
                FROM unnest(few) t(tenant) JOIN {schema}.events e ON e.tenant = t.tenant
                    AND (e.tenant, e.position) > (t.tenant, reached) AND (e.tenant, e.position) <= (t.tenant, hi)
            ) x;
        END IF;
        IF n = 0 THEN -- step over a large hole
            SELECT greatest(hi, least(upto, min(e.position) - 1)) INTO hi FROM {schema}.events e WHERE e.position > hi;
        END IF;
        positions := positions || found;
        reached := hi;
        examined := examined + n;
        IF cardinality(positions) >= most THEN
            positions := positions[1:most];
            reached := positions[most];
        ELSIF n < most THEN
            step := least(2 * step, 262144);
        END IF;
    END LOOP;
END $$;

-- position_at returns the position of the first event that was recorded at or
-- after t; NULL where there is none. An event gets its position and its time of
-- recording in one moment, so times ascend with the positions but for moments,
-- unless the server's clock was set back.
CREATE FUNCTION {schema}.position_at(t timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE
SET enable_seqscan = off
AS $$
DECLARE
    lo  bigint;
    hi  bigint;
    mid bigint;
    p   bigint;
    at  timestamptz;
BEGIN
    SELECT min(position), max(position) INTO lo, hi FROM {schema}.events;
    WHILE lo < hi LOOP
        mid := lo + (hi - lo) / 2;
        SELECT e.position, e.recorded_at INTO p, at FROM {schema}.events e WHERE e.position >= mid ORDER BY e.position LIMIT 1;
        IF at >= t - interval '10 s' THEN
            hi := mid;
        ELSE
            lo := p + 1;
        END IF;
    END LOOP;
    RETURN (SELECT e.position FROM {schema}.events e WHERE e.position >= lo AND e.recorded_at >= t ORDER BY e.position LIMIT 1);
END $$;
