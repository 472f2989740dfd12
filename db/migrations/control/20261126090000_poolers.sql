-- migrate:up

-- A transaction pooler in front of a cluster, through which the tenants' logins connect: postgres://host:port, without a login. The
-- administrator connects directly.
ALTER TABLE clusters
    ADD COLUMN pooler_url text CONSTRAINT clusters_pooler_url_length CHECK (octet_length(pooler_url) BETWEEN 1 AND 2000);

-- migrate:down

DO $$
BEGIN
    IF EXISTS (SELECT FROM clusters WHERE pooler_url IS NOT NULL) THEN
        RAISE EXCEPTION 'there are clusters with a pooler; the release before would connect directly'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

ALTER TABLE clusters DROP COLUMN pooler_url;
