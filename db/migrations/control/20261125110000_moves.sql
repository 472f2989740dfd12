-- migrate:up

-- A move of a tenant to another place, from its beginning until what is left at the old place has been dropped. The tenant's own row says
-- where the tenant is: at the old place until the move is switched, at the new one from then on. Names of schema and role stay.
CREATE TABLE moves (
    tenant_id          uuid PRIMARY KEY REFERENCES tenants (id),
    state              text NOT NULL DEFAULT 'running' CONSTRAINT moves_state_known CHECK (state IN ('running', 'aborting', 'switched')),
    -- Calls of the tenant are to wait: for a short time while it runs.
    holding            boolean NOT NULL DEFAULT false,
    -- Nothing is left to do but to drop the old copy.
    finished           boolean NOT NULL DEFAULT false,
    started_at         timestamptz NOT NULL DEFAULT now(),
    switched_at        timestamptz,
    cluster            text COLLATE "C" NOT NULL REFERENCES clusters (name),
    strategy           text NOT NULL CONSTRAINT moves_strategy_known CHECK (strategy IN ('schema', 'database')),
    database_name      text COLLATE "C" NOT NULL,
    login_no           integer NOT NULL,
    encrypted_password bytea,
    old_cluster        text COLLATE "C" NOT NULL REFERENCES clusters (name),
    old_strategy       text NOT NULL CONSTRAINT moves_old_strategy_known CHECK (old_strategy IN ('schema', 'database')),
    old_database_name  text COLLATE "C" NOT NULL,
    old_login_no       integer NOT NULL,
    CONSTRAINT moves_switched_has_a_time CHECK ((state = 'switched') = (switched_at IS NOT NULL)),
    CONSTRAINT moves_finished_is_switched CHECK (NOT finished OR state = 'switched'),
    CONSTRAINT moves_passwords_belong_to_databases CHECK ((strategy = 'database') = (encrypted_password IS NOT NULL))
);

-- migrate:down

DO $$
BEGIN
    IF EXISTS (SELECT FROM moves) THEN
        RAISE EXCEPTION 'there are moves that are not confirmed; the release before knows nothing of them'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

DROP TABLE moves;
