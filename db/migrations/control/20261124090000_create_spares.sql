-- migrate:up

-- A spare is a schema with its role, in the registry's own database, that was made and migrated before anybody asked for it. It
-- is nobody's: whoever signs up becomes a tenant with the spare's id and names, and the row goes. A row is there if and only if
-- its schema and its role are. A reference is made in the same way, to be looked at; it never becomes a tenant.
CREATE TABLE spares (
    id          uuid PRIMARY KEY,
    state       text NOT NULL CONSTRAINT spares_state_known CHECK (state IN ('building', 'ready', 'reference')),
    schema_name text COLLATE "C" NOT NULL UNIQUE,
    role_name   text COLLATE "C" NOT NULL UNIQUE,
    login_no    integer NOT NULL CONSTRAINT spares_login_no_range CHECK (login_no >= 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    -- The rules for a tenant's names.
    CONSTRAINT spares_schema_name_grammar CHECK (
        schema_name ~ '^[a-z_][a-z0-9_]*$' AND octet_length(schema_name) <= 63 AND left(schema_name, 3) <> 'pg_'
        AND schema_name NOT IN ('leasehold', 'public', 'information_schema')
    ),
    CONSTRAINT spares_role_name_grammar CHECK (
        role_name ~ '^[a-z_][a-z0-9_]*$' AND octet_length(role_name) <= 63 AND left(role_name, 3) <> 'pg_'
    )
);

-- migrate:down

-- The release before knows nothing of spares: their schemas and roles would stay for ever.
DO $$
BEGIN
    IF EXISTS (SELECT FROM spares) THEN
        RAISE EXCEPTION 'there are spares; remove them first'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

DROP TABLE spares;
