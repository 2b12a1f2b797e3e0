-- Routing keys: events that carry the name of a route in place of the route.

-- Each change of a route has a number that no other has. A route that was removed stays,
-- without one, while somebody may still have to learn from which positions on it is so.
CREATE SEQUENCE {schema}.route_versions;
ALTER TABLE {schema}.routes
	ALTER COLUMN route DROP NOT NULL,
	ADD COLUMN version bigint NOT NULL DEFAULT nextval('{schema}.route_versions');

-- What a key stands for behind a position of a log partition.
CREATE TABLE {schema}.bindings (
	log       text COLLATE "C" NOT NULL,
	service   text COLLATE "C" NOT NULL,
	name      text COLLATE "C" NOT NULL REFERENCES {schema}.routes,
	partition bigint NOT NULL,
	begins    bigint NOT NULL,
	host      text NOT NULL, -- '': no sandbox of the service
	PRIMARY KEY (log, service, name, partition, begins)
);
CREATE INDEX bindings_name ON {schema}.bindings (name);
