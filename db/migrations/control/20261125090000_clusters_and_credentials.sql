-- migrate:up

-- A cluster is a PostgreSQL server, or a Citus cluster, that houses tenants. The one that is called default holds the registry and is
-- reached as the registry is; the others are reached through an administrator's URL of their own, which is encrypted because it
-- has a password in it.
ALTER TABLE clusters
    ADD COLUMN kind          text NOT NULL DEFAULT 'postgres' CONSTRAINT clusters_kind_known CHECK (kind IN ('postgres', 'citus')),
    ADD COLUMN strategy      text NOT NULL DEFAULT 'schema' CONSTRAINT clusters_strategy_known CHECK (strategy IN ('schema', 'database')),
    ADD COLUMN max_tenants   integer CONSTRAINT clusters_max_tenants_range CHECK (max_tenants > 0),
    ADD COLUMN draining      boolean NOT NULL DEFAULT false,
    ADD COLUMN encrypted_url bytea,
    -- The database for tenants that are housed by schema, as the administrator's URL names it; the registry's own is not written down.
    ADD COLUMN database_name text COLLATE "C" CONSTRAINT clusters_database_name_length CHECK (octet_length(database_name) BETWEEN 1 AND 63),
    ADD CONSTRAINT clusters_default_is_the_registry CHECK (
        (name = 'default') = (encrypted_url IS NULL) AND (encrypted_url IS NULL) = (database_name IS NULL)
    );

-- A tenant with a database of its own has a login of its own, with a password that is encrypted here. While the password is changed
-- there are two, and the server takes one of them.
ALTER TABLE tenants
    ADD COLUMN next_encrypted_password bytea,
    ADD CONSTRAINT tenants_passwords_belong_to_databases CHECK (
        CASE WHEN strategy = 'schema' THEN encrypted_password IS NULL AND next_encrypted_password IS NULL
             ELSE encrypted_password IS NOT NULL OR status IN ('failed', 'deleted') END
    ),
    ADD CONSTRAINT tenants_database_name_grammar CHECK (
        strategy = 'schema' OR database_name ~ '^[a-z_][a-z0-9_]*$' AND left(database_name, 3) <> 'pg_'
        AND database_name NOT IN ('postgres', 'template0', 'template1')
    );

-- The record of a tenant that is gone does not hold its cluster.
ALTER TABLE tenants
    DROP CONSTRAINT tenants_cluster_fkey,
    ADD COLUMN living_on text COLLATE "C"
        GENERATED ALWAYS AS (CASE WHEN status NOT IN ('failed', 'deleted') THEN cluster END) STORED
        CONSTRAINT tenants_living_on_fkey REFERENCES clusters (name);

-- Names of databases are never used twice on a cluster.
CREATE UNIQUE INDEX tenants_database_names ON tenants (cluster, database_name) WHERE strategy = 'database';
CREATE INDEX tenants_cluster_living ON tenants (living_on) WHERE living_on IS NOT NULL;

-- A runtime login is one on each cluster, and is a member of the roles of tenants that are housed by schema there.
DROP INDEX tenants_login_living;
CREATE INDEX tenants_login_living ON tenants (cluster, login_no) WHERE strategy = 'schema' AND status NOT IN ('failed', 'deleted');

-- migrate:down

-- The release before knows the registry's own server only, and schemas only.
DO $$
BEGIN
    IF EXISTS (SELECT FROM tenants WHERE strategy <> 'schema' OR cluster <> 'default') THEN
        RAISE EXCEPTION 'there are tenants with a database of their own, or on another cluster'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

DROP INDEX tenants_login_living;
CREATE INDEX tenants_login_living ON tenants (login_no) WHERE status NOT IN ('failed', 'deleted');
DROP INDEX tenants_cluster_living;
DROP INDEX tenants_database_names;
DELETE FROM clusters WHERE name <> 'default';
ALTER TABLE tenants
    DROP COLUMN living_on,
    ADD CONSTRAINT tenants_cluster_fkey FOREIGN KEY (cluster) REFERENCES clusters (name),
    DROP CONSTRAINT tenants_database_name_grammar,
    DROP CONSTRAINT tenants_passwords_belong_to_databases,
    DROP COLUMN next_encrypted_password;
ALTER TABLE clusters
    DROP CONSTRAINT clusters_default_is_the_registry,
    DROP COLUMN database_name,
    DROP COLUMN encrypted_url,
    DROP COLUMN draining,
    DROP COLUMN max_tenants,
    DROP COLUMN strategy,
    DROP COLUMN kind;
