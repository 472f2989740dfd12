-- migrate:up

-- A tenant that is to be deleted is kept for a time, not served, with its slug. When the time is over it is purged, in steps that a
-- crash may come between; from the first of them on there is no way back.
ALTER TABLE tenants DROP CONSTRAINT tenants_status_known;
ALTER TABLE tenants
    ADD CONSTRAINT tenants_status_known CHECK (status IN ('provisioning', 'active', 'suspended', 'deleting', 'failed', 'deleted')),
    ADD COLUMN delete_after timestamptz,
    ADD COLUMN purging boolean NOT NULL DEFAULT false,
    -- What it is again when the deletion is cancelled.
    ADD COLUMN was_suspended boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT tenants_deleting_has_a_time CHECK ((status = 'deleting') = (delete_after IS NOT NULL)),
    ADD CONSTRAINT tenants_purging_is_deleting CHECK (NOT purging OR status = 'deleting');

CREATE INDEX tenants_delete_after ON tenants (delete_after) WHERE status = 'deleting';

-- A slug that a tenant had before it was renamed. Until the time is over its host leads to the new one, and nobody else can have it.
CREATE TABLE former_slugs (
    slug      text COLLATE "C" PRIMARY KEY
              CONSTRAINT former_slugs_slug_grammar CHECK (
                  slug ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' AND octet_length(slug) <= 40 AND substr(slug, 3, 2) <> '--'
              ),
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    until     timestamptz NOT NULL
);

CREATE INDEX former_slugs_tenant_id ON former_slugs (tenant_id);

-- Under the slug's lock, since a slug becomes a former one in the transaction that frees it: whoever has waited for the lock sees it.
CREATE FUNCTION tenants_keep_former_slugs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold slug ' || NEW.slug, 0));
    IF EXISTS (SELECT FROM leasehold.former_slugs WHERE slug = NEW.slug AND until > now() AND tenant_id <> NEW.id) THEN
        RAISE EXCEPTION 'the slug % leads to another tenant', NEW.slug
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'tenants_slug_living';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER tenants_former_slugs_insert BEFORE INSERT ON tenants
    FOR EACH ROW WHEN (NEW.status NOT IN ('failed', 'deleted')) EXECUTE FUNCTION tenants_keep_former_slugs();
CREATE TRIGGER tenants_former_slugs_update BEFORE UPDATE OF slug ON tenants
    FOR EACH ROW WHEN (NEW.slug <> OLD.slug) EXECUTE FUNCTION tenants_keep_former_slugs();

-- Whoever controls a domain puts the token into a TXT record of it; then it is verified, and leads to the tenant. Any number of tenants
-- may claim a domain until one of them has verified it.
ALTER TABLE domains
    ADD COLUMN token text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    DROP CONSTRAINT domains_pkey,
    ADD PRIMARY KEY (name, tenant_id);

CREATE UNIQUE INDEX domains_verified ON domains (name) WHERE verified_at IS NOT NULL;

-- The payload of a domain's notification is the domain. A slug has no dot in it, and a domain has one.
CREATE FUNCTION domains_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_catalog.pg_notify('leasehold_tenants', OLD.name);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_catalog.pg_notify('leasehold_tenants', NEW.name);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER domains_changed AFTER INSERT OR UPDATE OR DELETE ON domains
    FOR EACH ROW EXECUTE FUNCTION domains_notify();

-- What a slug led to is cached as that of a tenant is.
CREATE FUNCTION former_slugs_notify() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER former_slugs_changed AFTER INSERT OR UPDATE OR DELETE ON former_slugs
    FOR EACH ROW EXECUTE FUNCTION former_slugs_notify();

-- A change of a tenant concerns all that leads to it.
CREATE OR REPLACE FUNCTION tenants_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_catalog.pg_notify('leasehold_tenants', OLD.slug);
        PERFORM pg_catalog.pg_notify('leasehold_tenants', d.name) FROM leasehold.domains d WHERE d.tenant_id = OLD.id;
        PERFORM pg_catalog.pg_notify('leasehold_tenants', f.slug) FROM leasehold.former_slugs f WHERE f.tenant_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_catalog.pg_notify('leasehold_tenants', NEW.slug);
    END IF;
    RETURN NULL;
END
$$;

-- migrate:down

DO $$
BEGIN
    IF EXISTS (SELECT FROM tenants WHERE status = 'deleting') THEN
        RAISE EXCEPTION 'there are tenants that are being deleted; the release before knows no such status'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION tenants_notify() RETURNS trigger LANGUAGE plpgsql AS $$
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

DROP TRIGGER domains_changed ON domains;
DROP FUNCTION domains_notify();
DROP INDEX domains_verified;
-- To the release before a claim was worth as much as a domain.
DELETE FROM domains WHERE verified_at IS NULL;
ALTER TABLE domains
    DROP CONSTRAINT domains_pkey,
    ADD PRIMARY KEY (name),
    DROP COLUMN token;
DROP TRIGGER tenants_former_slugs_update ON tenants;
DROP TRIGGER tenants_former_slugs_insert ON tenants;
DROP FUNCTION tenants_keep_former_slugs();
DROP TABLE former_slugs;
DROP FUNCTION former_slugs_notify();
DROP INDEX tenants_delete_after;
ALTER TABLE tenants
    DROP CONSTRAINT tenants_purging_is_deleting,
    DROP CONSTRAINT tenants_deleting_has_a_time,
    DROP COLUMN was_suspended,
    DROP COLUMN purging,
    DROP COLUMN delete_after,
    DROP CONSTRAINT tenants_status_known;
ALTER TABLE tenants ADD CONSTRAINT tenants_status_known CHECK (status IN ('provisioning', 'active', 'suspended', 'failed', 'deleted'));
