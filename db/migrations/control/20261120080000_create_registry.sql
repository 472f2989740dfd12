-- migrate:up

-- The registry of tenants. It lives in a schema of its own that belongs to the administrator's login; no other role has any
-- right on it. The rules below are those of the Go package db/tenant, so that a row written by hand obeys them too.

-- installation tells two registries on one server apart: roles are shared by all databases of a server.
CREATE TABLE installation (
    singleton  boolean     PRIMARY KEY DEFAULT true CONSTRAINT installation_is_one_row CHECK (singleton),
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO installation DEFAULT VALUES;

CREATE TABLE clusters (
    name       text COLLATE "C" PRIMARY KEY
               CONSTRAINT clusters_name_grammar CHECK (name ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' AND length(name) <= 40),
    created_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO clusters (name) VALUES ('default');

CREATE TABLE tenants (
    id                 uuid PRIMARY KEY,
    slug               text COLLATE "C" NOT NULL,
    company            text NOT NULL CONSTRAINT tenants_company_length CHECK (char_length(company) BETWEEN 1 AND 200),
    contact_name       text NOT NULL CONSTRAINT tenants_contact_name_length CHECK (char_length(contact_name) BETWEEN 1 AND 200),
    contact_email      text NOT NULL CONSTRAINT tenants_contact_email_length CHECK (char_length(contact_email) BETWEEN 3 AND 254),
    status             text NOT NULL
                       CONSTRAINT tenants_status_known CHECK (status IN ('provisioning', 'active', 'suspended', 'failed', 'deleted')),
    cluster            text COLLATE "C" NOT NULL REFERENCES clusters (name),
    strategy           text NOT NULL CONSTRAINT tenants_strategy_known CHECK (strategy IN ('schema', 'database')),
    database_name      text COLLATE "C" NOT NULL
                       CONSTRAINT tenants_database_name_length CHECK (octet_length(database_name) BETWEEN 1 AND 63),
    schema_name        text COLLATE "C" NOT NULL UNIQUE,
    role_name          text COLLATE "C" NOT NULL UNIQUE,
    encrypted_password bytea,
    generation         bigint NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_slug_grammar CHECK (
        slug ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' AND octet_length(slug) <= 40 AND substr(slug, 3, 2) <> '--'
    ),
    -- Names that are not a tenant's are refused, because the schema of a broken-off creation is dropped.
    CONSTRAINT tenants_schema_name_grammar CHECK (
        schema_name ~ '^[a-z_][a-z0-9_]*$' AND octet_length(schema_name) <= 63 AND left(schema_name, 3) <> 'pg_'
        AND schema_name NOT IN ('leasehold', 'public', 'information_schema')
    ),
    CONSTRAINT tenants_role_name_grammar CHECK (
        role_name ~ '^[a-z_][a-z0-9_]*$' AND octet_length(role_name) <= 63 AND left(role_name, 3) <> 'pg_'
    )
);

-- A slug is taken by at most one living tenant. Those that failed or were deleted keep their record and free their slug.
CREATE UNIQUE INDEX tenants_slug_living ON tenants (slug) WHERE status NOT IN ('failed', 'deleted');
CREATE INDEX tenants_slug_id ON tenants (slug, id);
CREATE INDEX tenants_provisioning ON tenants (id) WHERE status = 'provisioning';

CREATE TABLE domains (
    name        text COLLATE "C" PRIMARY KEY
                CONSTRAINT domains_name_grammar CHECK (name ~ '^[a-z0-9-]+(\.[a-z0-9-]+)+$' AND octet_length(name) <= 253),
    tenant_id   uuid NOT NULL REFERENCES tenants (id),
    verified_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX domains_tenant_id ON domains (tenant_id);

CREATE TABLE events (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind      text NOT NULL CONSTRAINT events_kind_grammar CHECK (kind ~ '^[a-z][a-z_]*(\.[a-z][a-z_]*)*$'),
    detail    text NOT NULL DEFAULT ''
);

CREATE INDEX events_tenant_id ON events (tenant_id, id);

CREATE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only' USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;

-- For each statement, so that one that matches no row is refused too.
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change();

CREATE FUNCTION tenants_before_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'the id of a tenant never changes' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    NEW.generation := OLD.generation + 1;
    NEW.created_at := OLD.created_at;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

CREATE TRIGGER tenants_generation BEFORE UPDATE ON tenants
    FOR EACH ROW EXECUTE FUNCTION tenants_before_update();

-- Whoever changes a tenant, also by hand, tells every process that may have the row in its cache. Each notification carries
-- one slug. A TRUNCATE cannot happen: it would reach the event log, which refuses.
CREATE FUNCTION tenants_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_catalog.pg_notify('leasehold_tenants', OLD.slug);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_catalog.pg_notify('leasehold_tenants', NEW.slug);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER tenants_changed AFTER INSERT OR UPDATE OR DELETE ON tenants
    FOR EACH ROW EXECUTE FUNCTION tenants_notify();

-- migrate:down

DROP TABLE events;
DROP TABLE domains;
DROP TABLE tenants;
DROP TABLE clusters;
DROP TABLE installation;
DROP FUNCTION events_refuse_change();
DROP FUNCTION tenants_before_update();
DROP FUNCTION tenants_notify();
