-- Partitions the events table by hash of the tenant, into {partitions} tables. partitioned.go
-- holds the lock on it, and reads from the catalog how to make its indexes, triggers and rights
-- anew; columns come by LIKE. So this is the same text for a schema of each version.

ALTER TABLE {schema}.events RENAME TO events_before;
CREATE TABLE {schema}.events (LIKE {schema}.events_before INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY) PARTITION BY HASH (tenant);

DO $$
DECLARE
    options text := (SELECT ' WITH (' || array_to_string(c.reloptions, ', ') || ')' FROM pg_class c WHERE c.oid = 'events_before'::regclass);
BEGIN
    FOR i IN 0 .. {partitions} - 1 LOOP
        EXECUTE format('CREATE TABLE events_p%s PARTITION OF events FOR VALUES WITH (MODULUS {partitions}, REMAINDER %1$s)%s', i, options);
    END LOOP;
END $$;

-- The ids of the events that have one of their own. A unique index of events would have
-- to have the tenant in it, and an id is unique in the log.
CREATE TABLE {schema}.event_ids (
    id      text COLLATE "C" NOT NULL,
    tenant  text COLLATE "C" NOT NULL,
    stream  text COLLATE "C" NOT NULL,
    version bigint NOT NULL
);

DO $$
DECLARE
    columns text := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = 'events_before'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '');
    copied  bigint;
BEGIN
    EXECUTE format('INSERT INTO events(%s) SELECT %1$s FROM events_before ORDER BY position', columns);
    GET DIAGNOSTICS copied = ROW_COUNT;
    PERFORM set_config('fairlead.copied', copied::text, true);
END $$;
INSERT INTO {schema}.event_ids(id, tenant, stream, version)
    SELECT e.id, e.tenant, e.stream, e.version FROM {schema}.events_before e WHERE e.id IS NOT NULL ORDER BY e.id;
DROP TABLE {schema}.events_before;

-- The name is the one that programs know whose append has lost a race for an id.
ALTER TABLE {schema}.event_ids ADD CONSTRAINT events_id PRIMARY KEY (id);

-- Positions come from one sequence, and still by the INSERT itself, under the lock that it
-- takes on the parent first. (Identity columns of partitioned tables come with version 17.)
CREATE SEQUENCE {schema}.events_position_seq AS bigint CACHE 1 OWNED BY {schema}.events.position;
ALTER TABLE {schema}.events ALTER COLUMN position SET DEFAULT nextval('events_position_seq'::regclass);

-- Of each row, so they hold for a partition that is written to by its own name.
CREATE FUNCTION {schema}.keep_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}.event_ids(id, tenant, stream, version) VALUES (NEW.id, NEW.tenant, NEW.stream, NEW.version);
    RETURN NULL;
END $$;
CREATE FUNCTION {schema}.change_id() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM {schema}.event_ids WHERE id = OLD.id;
    IF TG_OP = 'UPDATE' AND NEW.id IS NOT NULL THEN
        INSERT INTO {schema}.event_ids(id, tenant, stream, version) VALUES (NEW.id, NEW.tenant, NEW.stream, NEW.version);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER keep_id AFTER INSERT ON {schema}.events FOR EACH ROW WHEN (NEW.id IS NOT NULL) EXECUTE FUNCTION {schema}.keep_id();
CREATE TRIGGER drop_id AFTER DELETE ON {schema}.events FOR EACH ROW WHEN (OLD.id IS NOT NULL) EXECUTE FUNCTION {schema}.change_id();
CREATE TRIGGER change_id AFTER UPDATE OF id, tenant, stream, version ON {schema}.events FOR EACH ROW
    WHEN ((OLD.id, OLD.tenant, OLD.stream, OLD.version) IS DISTINCT FROM (NEW.id, NEW.tenant, NEW.stream, NEW.version))
    EXECUTE FUNCTION {schema}.change_id();

-- As note_truncate does, for one partition; the TRUNCATE of all comes by here too.
CREATE FUNCTION {schema}.note_truncate_part() RETURNS trigger LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $$
BEGIN
    EXECUTE format('UPDATE removed SET removed = greatest(removed, (SELECT max(position) FROM %s))', TG_RELID::regclass);
    EXECUTE format('INSERT INTO removed_ids(id, tenant, stream, version)
        SELECT id, tenant, stream, version FROM %s WHERE id IS NOT NULL ON CONFLICT DO NOTHING', TG_RELID::regclass);
    EXECUTE format('DELETE FROM event_ids x USING %s e WHERE x.id = e.id', TG_RELID::regclass);
    EXECUTE format('UPDATE streams s SET floor = greatest(s.floor, g.version)
        FROM (SELECT tenant, stream, max(version) AS version FROM %s GROUP BY tenant, stream) g
        WHERE s.tenant = g.tenant AND s.stream = g.stream', TG_RELID::regclass);
    RETURN NULL;
END $$;

-- Rights are those of the old table, not those that new ones are given by default.
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
        FROM pg_class c, aclexplode(c.relacl) a WHERE a.grantee <> c.relowner AND (c.oid IN ('event_ids'::regclass, 'events_position_seq'::regclass)
            OR c.oid IN (SELECT p.relid FROM pg_partition_tree('events') p))
        GROUP BY 1, 2, 3
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', r.kind, r.name, r.grantee);
    END LOOP;
END $$;

{found}

-- The triggers of a statement are for the table that it names, so each partition has them
-- too. One key of all partitions would have to have the tenant in it.
DO $$
DECLARE
    part    regclass;
    grantee text;
BEGIN
    FOR part IN SELECT p.relid FROM pg_partition_tree('events') p WHERE p.isleaf LOOP
        EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (position)', part);
        EXECUTE format('CREATE TRIGGER note_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note_delete()', part);
        EXECUTE format('CREATE TRIGGER note_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION note_truncate_part()', part);
        -- That trigger reads the partition as who truncates, as note_truncate reads events.
        FOR grantee IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
            FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'events'::regclass AND a.grantee <> c.relowner AND a.privilege_type = 'TRUNCATE'
            AND has_table_privilege(a.grantee, c.oid, 'SELECT')
        LOOP
            EXECUTE format('GRANT SELECT ON %s TO %s', part, grantee);
        END LOOP;
    END LOOP;
END $$;
