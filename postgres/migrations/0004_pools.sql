-- The worker pools that tenants were given to.
CREATE TABLE {schema}.pools (tenant text COLLATE "C" PRIMARY KEY, pool text COLLATE "C" NOT NULL);
