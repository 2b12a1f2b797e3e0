-- append is as in 0011, and takes less for several parts of one stream without ids: what each
-- begins with is found by one statement for all of them. As there, the events are written last: from
-- the first position that an append takes to its commit readers do not pass it, and so nobody's later
-- events.
CREATE OR REPLACE FUNCTION {schema}.append(
    r_tenant text[], r_stream text[],
    r_tenant_hash bigint[], r_stream_hash bigint[],
    p_ref integer[], p_expected bigint[], p_count integer[], p_ids boolean[],
    e_type text[], e_occurred timestamptz[], e_id text[], e_own bigint[],
    e_metadata text[], e_data text[], e_raw bytea[], e_class text[],
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
    e_ref   integer[]; -- of each event, its stream
    e_version bigint[]; -- NULL: it is known
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
    IF cardinality(r_tenant) > 1 AND (
        SELECT bool_and(EXISTS (SELECT FROM {schema}.streams s WHERE s.tenant = u.tenant AND s.stream = u.stream))
            FROM unnest(r_tenant, r_stream) u(tenant, stream)
    ) THEN
        SELECT array_agg(s.version ORDER BY u.ref) INTO base
            FROM unnest(r_tenant, r_stream) WITH ORDINALITY u(tenant, stream, ref)
                CROSS JOIN LATERAL (SELECT s.version FROM {schema}.streams s
                    WHERE s.tenant = u.tenant AND s.stream = u.stream FOR NO KEY UPDATE) s;
    END IF;
    -- One by one, where there is one, or some are new.
    IF cardinality(base) IS DISTINCT FROM cardinality(r_tenant) THEN
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
    END IF;
    cur := base;

    IF cardinality(p_ref) > 1 AND NOT true = ANY (p_ids) THEN
        -- Without ids it takes no look at each part.
        SELECT array_agg(x.before + 1 ORDER BY x.p), min(x.p) FILTER (WHERE x.expected <> x.before) INTO p_first, o_part
            FROM (SELECT u.p, u.expected, base[u.ref] + sum(u.n) OVER (PARTITION BY u.ref ORDER BY u.p) - u.n AS before
                FROM unnest(p_ref, p_expected, p_count) WITH ORDINALITY u(ref, expected, n, p)) x;
        IF o_part IS NULL THEN
            SELECT array_agg(base[x.ref] + x.n ORDER BY x.ref) INTO cur
                FROM (SELECT u.ref, sum(u.n) AS n FROM unnest(p_ref, p_count) u(ref, n) GROUP BY u.ref) x;
        ELSE
            status := 'conflict';
            o_version := p_first[o_part] - 1;
        END IF;
    ELSE
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
            EXIT WHEN status <> 'ok';
            lo := hi + 1;
        END LOOP;
    END IF;
    IF status <> 'ok' THEN
        IF made THEN
            DELETE FROM {schema}.streams s USING unnest(r_tenant, r_stream) x(tenant, stream)
                WHERE s.tenant = x.tenant AND s.stream = x.stream AND s.version = 0;
        END IF;
        RETURN;
    END IF;
    IF cur = base THEN
        RETURN;
    END IF;

    IF cardinality(r_tenant) = 1 THEN
        UPDATE {schema}.streams s SET version = cur[1] WHERE s.tenant = r_tenant[1] AND s.stream = r_stream[1];
    ELSE
        UPDATE {schema}.streams s SET version = x.version
            FROM unnest(r_tenant, r_stream, cur) x(tenant, stream, version)
            WHERE s.tenant = x.tenant AND s.stream = x.stream AND s.version <> x.version;
    END IF;

    IF cardinality(e_type) = 1 THEN
        INSERT INTO {schema}.events(tenant, stream, tenant_hash, stream_hash, version, type, class, occurred_at, id, metadata, data, raw)
            VALUES (r_tenant[1], r_stream[1], r_tenant_hash[1], r_stream_hash[1], cur[1], e_type[1], coalesce(e_class[1], ''), coalesce(e_occurred[1], clock_timestamp()),
                e_id[1], e_metadata[1], e_data[1], e_raw[1])
            RETURNING position INTO o_position;
    ELSIF cardinality(p_ref) = 1 THEN
        WITH i AS (
            INSERT INTO {schema}.events(tenant, stream, tenant_hash, stream_hash, version, type, class, occurred_at, id, metadata, data, raw)
                SELECT r_tenant[1], r_stream[1], r_tenant_hash[1], r_stream_hash[1], p_first[1] + u.ord - 1, u.type, coalesce(u.class, ''), coalesce(u.occurred, clock_timestamp()),
                        u.id, u.metadata, u.data, u.raw
                    FROM unnest(e_type, e_class, e_occurred, e_id, e_metadata, e_data, e_raw)
                        WITH ORDINALITY u(type, class, occurred, id, metadata, data, raw, ord)
                    ORDER BY u.ord
                RETURNING position
        ) SELECT max(i.position) INTO o_position FROM i;
    ELSE
        SELECT array_agg(z.ref ORDER BY z.p, g.n), array_agg(z.first + g.n - 1 ORDER BY z.p, g.n) INTO e_ref, e_version
            FROM unnest(p_ref, p_first, p_count) WITH ORDINALITY z(ref, first, n, p), generate_series(1, z.n) g(n);
        WITH i AS (
            INSERT INTO {schema}.events(tenant, stream, tenant_hash, stream_hash, version, type, class, occurred_at, id, metadata, data, raw)
                SELECT r_tenant[u.ref], r_stream[u.ref], r_tenant_hash[u.ref], r_stream_hash[u.ref], u.version, u.type, coalesce(u.class, ''),
                        coalesce(u.occurred, clock_timestamp()), u.id, u.metadata, u.data, u.raw
                    FROM unnest(e_ref, e_version, e_type, e_class, e_occurred, e_id, e_metadata, e_data, e_raw)
                        WITH ORDINALITY u(ref, version, type, class, occurred, id, metadata, data, raw, ord)
                    WHERE u.version IS NOT NULL
                    ORDER BY u.ord
                RETURNING position
        ) SELECT max(i.position) INTO v FROM i;
        o_position := greatest(o_position, v);
    END IF;
END $$;
