-- Documents in a table for each collection, as jsonb. The table holds all builds
-- of the collection; the view that has the collection's name shows the live one.

-- The parent holds no row. It gives the tables of the collections their columns,
-- rights and row-level security, and is what read_model reads. Whoever knows the
-- collection reads and writes its own table.
ALTER TABLE {schema}.documents RENAME TO old_documents;
ALTER INDEX {schema}.documents_pkey RENAME TO old_documents_pkey;
CREATE TABLE {schema}.documents (
	build         bigint NOT NULL,
	version       bigint NOT NULL,
	position      bigint NOT NULL,
	updated       timestamptz NOT NULL,
	collection_no integer NOT NULL,
	tenant        text COLLATE "C" NOT NULL,
	id            text COLLATE "C" NOT NULL,
	document      jsonb, -- what jsonb can hold of it
	raw           bytea  -- the document to the byte, where jsonb cannot hold all of it
) PARTITION BY LIST (collection_no);

CREATE SEQUENCE {schema}.collection_numbers AS integer;
-- no is of the processor's documents, and never given again; table and view are
-- their relations, shown is the collection that the view was named for.
ALTER TABLE {schema}.processors ADD COLUMN no integer UNIQUE, ADD COLUMN document_table text, ADD COLUMN document_view text, ADD COLUMN shown text;

-- Which relations are a collection's: to make indexes on the table and one's own
-- views on the view.
CREATE VIEW {schema}.collections AS
	SELECT collection, document_view AS view, document_table AS "table", name AS processor, live AS build
	  FROM {schema}.processors WHERE collection <> '';

-- relation is the whole name of a relation of this schema.
CREATE FUNCTION {schema}.relation(name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT format('%I.%I', {schema_text}::text, name)
$$;

-- free_stem returns the first of stem, stem_2, stem_3, ... with which both a view
-- and a table can be named. Names are cut to the 63 bytes that PostgreSQL keeps,
-- between two characters. A table is a type too. Braces become brackets: they mean
-- something in Fairlead's own statements.
CREATE FUNCTION {schema}.free_stem(wanted text) RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	n    integer := 1;
	stem text;
	tail text := '';
BEGIN
	LOOP
		stem := left(translate(wanted, '{}', '[]'), 63);
		WHILE octet_length(stem || tail || '_documents') > 63 LOOP
			stem := left(stem, -1);
		END LOOP;
		stem := stem || tail;
		EXIT WHEN NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
				WHERE s.nspname = {schema_text} AND c.relname IN (stem, stem || '_documents'))
			AND NOT EXISTS (SELECT FROM pg_type t JOIN pg_namespace s ON s.oid = t.typnamespace
				WHERE s.nspname = {schema_text} AND t.typname IN (stem, stem || '_documents'));
		n := n + 1;
		tail := '_' || n;
	END LOOP;
	RETURN stem;
END $$;

-- secure_documents holds readers of a table of documents to one tenant; see
-- SecureReaders. After a transaction that had the setting it is empty, not NULL.
-- In a sub-select it is looked at once, not for each row.
CREATE FUNCTION {schema}.secure_documents(of_table regclass) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', of_table);
	IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = of_table AND polname = 'one_tenant') THEN
		EXECUTE format('CREATE POLICY one_tenant ON %s FOR SELECT USING (tenant = (SELECT nullif(current_setting(''fairlead.tenant'', true), '''')))', of_table);
	END IF;
END $$;

-- copy_rights gives all who have rights on one relation the same on another.
CREATE FUNCTION {schema}.copy_rights(of_relation regclass, onto regclass) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE r record;
BEGIN
	FOR r IN SELECT a.privilege_type, a.is_grantable, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(g.rolname) END AS grantee
		FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
		WHERE c.oid = of_relation AND a.grantee <> c.relowner AND (a.grantee = 0 OR g.rolname IS NOT NULL)
	LOOP
		EXECUTE format('GRANT %s ON %s TO %s%s', r.privilege_type, onto, r.grantee, CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
	END LOOP;
END $$;

-- secure_readers holds a role to one tenant in all that shows documents. A view
-- that does not say security_invoker reads as its owner, whom the rule does not
-- hold. Collections that come later are secured as they are made.
CREATE FUNCTION {schema}.secure_readers(reader text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	p {schema}.processors;
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', {schema_text}::text, reader);
	EXECUTE format('GRANT SELECT (name, collection, live, no) ON %s TO %I', {schema}.relation('processors'), reader);
	PERFORM {schema}.secure_documents({schema}.relation('documents')::regclass);
	EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', {schema}.relation('read_model'));
	EXECUTE format('GRANT SELECT ON %s, %s TO %I', {schema}.relation('documents'), {schema}.relation('read_model'), reader);
	FOR p IN SELECT * FROM {schema}.processors WHERE no IS NOT NULL ORDER BY name LOOP
		PERFORM {schema}.secure_documents({schema}.relation(p.document_table)::regclass);
		EXECUTE format('GRANT SELECT ON %s TO %I', {schema}.relation(p.document_table), reader);
		IF p.document_view IS NOT NULL THEN
			EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', {schema}.relation(p.document_view));
			EXECUTE format('GRANT SELECT ON %s TO %I', {schema}.relation(p.document_view), reader);
		END IF;
	END LOOP;
END $$;

-- make_collection makes the table and the view of a processor's collection, where
-- they are not there, or not under its name. It works with the rights of the
-- schema's owner: so a role that may not create tables needs no more than to be
-- allowed to call it.
--
-- ATTACH waits for no one who reads or writes documents, and holds up nobody.
CREATE FUNCTION {schema}.make_collection(of_processor text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	p      {schema}.processors;
	stem   text;
	parent regclass := {schema}.relation('documents');
	secure boolean;
BEGIN
	SELECT * INTO p FROM {schema}.processors WHERE name = of_processor;
	IF NOT FOUND OR p.collection = coalesce(p.shown, '') THEN
		RETURN;
	END IF;
	SELECT relrowsecurity INTO secure FROM pg_class WHERE oid = parent;
	IF p.no IS NULL THEN
		p.no := nextval({schema}.relation('collection_numbers')::regclass);
		stem := {schema}.free_stem(p.collection);
		p.document_table := stem || '_documents';
		EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS, CHECK (collection_no = %s), PRIMARY KEY (build, tenant, id)) WITH (fillfactor = 85)',
			{schema}.relation(p.document_table), parent, p.no);
		EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES IN (%s)', parent, {schema}.relation(p.document_table), p.no);
		PERFORM {schema}.copy_rights(parent, {schema}.relation(p.document_table)::regclass);
		IF secure THEN
			PERFORM {schema}.secure_documents({schema}.relation(p.document_table)::regclass);
		END IF;
	END IF;
	IF p.collection = '' THEN
		EXECUTE format('DROP VIEW %s', {schema}.relation(p.document_view));
		p.document_view := NULL;
	ELSIF p.document_view IS NOT NULL THEN
		stem := {schema}.free_stem(p.collection);
		EXECUTE format('ALTER VIEW %s RENAME TO %I', {schema}.relation(p.document_view), stem);
		p.document_view := stem;
	ELSE
		p.document_view := coalesce(stem, {schema}.free_stem(p.collection));
		EXECUTE format('CREATE VIEW %s %s AS SELECT tenant, id, document, version, position, updated, build, raw FROM %s
				WHERE build = (SELECT live FROM %s WHERE no = %s)',
			{schema}.relation(p.document_view), CASE WHEN secure THEN 'WITH (security_invoker = true)' ELSE '' END,
			{schema}.relation(p.document_table), {schema}.relation('processors'), p.no);
		PERFORM {schema}.copy_rights({schema}.relation('read_model')::regclass, {schema}.relation(p.document_view)::regclass);
	END IF;
	UPDATE {schema}.processors SET no = p.no, document_table = p.document_table, document_view = p.document_view, shown = collection
		WHERE name = of_processor;
END $$;

-- drop_collection drops the table and the view of a processor, with what is in
-- them. It fails where a view of somebody's own reads them.
CREATE FUNCTION {schema}.drop_collection(of_processor text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE p {schema}.processors;
BEGIN
	SELECT * INTO p FROM {schema}.processors WHERE name = of_processor;
	IF p.document_view IS NOT NULL THEN
		EXECUTE format('DROP VIEW %s', {schema}.relation(p.document_view));
	END IF;
	IF p.document_table IS NOT NULL THEN
		EXECUTE format('DROP TABLE %s', {schema}.relation(p.document_table));
	END IF;
	UPDATE {schema}.processors SET no = NULL, document_table = NULL, document_view = NULL, shown = NULL WHERE name = of_processor;
END $$;

-- make_way gives the relations of collections that have a name which a migration
-- needs another one. Views and indexes on them stay.
CREATE FUNCTION {schema}.make_way(names text[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	p    {schema}.processors;
	stem text;
BEGIN
	FOR p IN SELECT * FROM {schema}.processors WHERE document_view = ANY (names) OR document_table = ANY (names) ORDER BY name LOOP
		stem := {schema}.free_stem(p.collection || '_2');
		IF p.document_view = ANY (names) THEN
			EXECUTE format('ALTER VIEW %s RENAME TO %I', {schema}.relation(p.document_view), stem);
			UPDATE {schema}.processors SET document_view = stem WHERE name = p.name;
		END IF;
		IF p.document_table = ANY (names) THEN
			EXECUTE format('ALTER TABLE %s RENAME TO %I', {schema}.relation(p.document_table), stem || '_documents');
			UPDATE {schema}.processors SET document_table = stem || '_documents' WHERE name = p.name;
		END IF;
	END LOOP;
END $$;

-- Who may call these makes and drops tables as the schema's owner.
REVOKE ALL ON FUNCTION {schema}.make_collection(text), {schema}.drop_collection(text) FROM PUBLIC;

-- no_collection ends a commit that has documents of a processor without a
-- collection. It stands behind the fence.
CREATE FUNCTION {schema}.no_collection(of_processor text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'processor % has no collection', of_processor USING ERRCODE = 'FL003';
END $$;

-- What is being served, of all collections. Columns have the names that they
-- always had here.
CREATE OR REPLACE VIEW {schema}.read_model AS
	SELECT p.collection, d.tenant, d.id, d.version, d.position, d.updated AS updated_at, d.document AS doc
	  FROM {schema}.processors p
	  JOIN {schema}.documents d ON d.collection_no = p.no AND d.build = p.live
	 WHERE p.collection <> '';

DROP FUNCTION {schema}.delete_documents(text, bigint, text[], text[]);
-- delete_documents deletes documents of a build by their keys. Its statement is
-- planned each time: a plan that is kept was made while the table was small.
CREATE FUNCTION {schema}.delete_documents(of_table regclass, of_collection integer, of_build bigint, tenants text[], ids text[])
RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
	EXECUTE format('DELETE FROM %s AS d USING unnest($3, $4) AS k (tenant, id)
		WHERE d.collection_no = $1 AND d.build = $2 AND d.tenant = k.tenant AND d.id = k.id', of_table)
		USING of_collection, of_build, tenants, ids;
END $$;

-- Readers that were held to one tenant stay so.
DO $$
DECLARE
	old    regclass := {schema}.relation('old_documents');
	reader record;
BEGIN
	PERFORM {schema}.copy_rights(old, {schema}.relation('documents')::regclass);
	IF (SELECT relrowsecurity FROM pg_class WHERE oid = old) THEN
		PERFORM {schema}.secure_documents({schema}.relation('documents')::regclass);
		EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', {schema}.relation('read_model'));
		FOR reader IN SELECT g.rolname FROM pg_attribute t, aclexplode(t.attacl) a JOIN pg_roles g ON g.oid = a.grantee
			WHERE t.attrelid = {schema}.relation('processors')::regclass AND t.attname = 'live'
		LOOP
			EXECUTE format('GRANT SELECT (no) ON %s TO %I', {schema}.relation('processors'), reader.rolname);
		END LOOP;
	END IF;
END $$;

-- The documents that are there. What jsonb cannot hold to the value keeps its
-- bytes beside it: a few that it could hold do so too, until they are next written.
CREATE FUNCTION {schema}.old_jsonb(doc json) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN {schema}.as_jsonb(doc);
EXCEPTION WHEN program_limit_exceeded OR statement_too_complex THEN
	RETURN NULL;
END $$;
DO $$
DECLARE p {schema}.processors;
BEGIN
	FOR p IN SELECT * FROM {schema}.processors WHERE collection <> '' ORDER BY name LOOP
		PERFORM {schema}.make_collection(p.name);
		SELECT * INTO p FROM {schema}.processors WHERE name = p.name;
		EXECUTE format('INSERT INTO %s (collection_no, build, tenant, id, version, position, updated, document, raw)
			SELECT $1, b.number, d.tenant, d.id, d.version, d.position, d.updated_at, j.doc,
				CASE WHEN j.doc IS NULL OR d.doc::text ~* ''\\u(0000|d[89a-f])|[0-9]e[-+]?[0-9]{5}|([0-9]{200}){5}|-0(\.0*)?([^.0-9]|$)'' THEN convert_to(d.doc::text, ''UTF8'') END
			FROM %s b JOIN %s d USING (build_no), LATERAL (SELECT %s(d.doc) AS doc OFFSET 0) j
			WHERE b.processor = $2', {schema}.relation(p.document_table), {schema}.relation('builds'), {schema}.relation('old_documents'),
				{schema}.relation('old_jsonb')) USING p.no, p.name;
	END LOOP;
END $$;
DROP TABLE {schema}.old_documents, {schema}.builds;
DROP FUNCTION {schema}.old_jsonb(json);
DROP FUNCTION {schema}.as_jsonb(json);
