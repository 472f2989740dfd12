-- migrate:up

-- Which of the installation's runtime logins is a member of the tenant's role, by its number. Tenants of the release before have
-- number 0, and so have those that this release still creates while it runs beside this one.
ALTER TABLE tenants ADD COLUMN login_no integer NOT NULL DEFAULT 0 CONSTRAINT tenants_login_no_range CHECK (login_no >= 0);

-- A creation counts the living tenants of each login.
CREATE INDEX tenants_login_living ON tenants (login_no) WHERE status NOT IN ('failed', 'deleted');

-- migrate:down

-- The release before knows login 0 only, which is no member of the roles of the other logins' tenants.
DO $$
BEGIN
    IF EXISTS (SELECT FROM tenants WHERE login_no > 0 AND status NOT IN ('failed', 'deleted')) THEN
        RAISE EXCEPTION 'there are tenants that only runtime logins other than number 0 can serve'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

ALTER TABLE tenants DROP COLUMN login_no;
