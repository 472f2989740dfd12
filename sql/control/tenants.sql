-- name: ChooseLogin :one
-- The lowest number whose login has room on the cluster for a living tenant that is housed by schema, or about to be, or a spare. It
-- holds until the transaction ends, if the reservation lock was taken by an earlier statement of the transaction. No login is a member of a
-- reference's role. Spares are on the default cluster only.
WITH places AS (
    SELECT t.login_no, count(*) AS taken FROM tenants t
    WHERE t.cluster = @cluster AND t.strategy = 'schema' AND t.status NOT IN ('failed', 'deleted') GROUP BY t.login_no
    UNION ALL
    SELECT m.login_no, count(*) FROM moves m
    WHERE m.cluster = @cluster AND m.strategy = 'schema' AND m.state <> 'switched' GROUP BY m.login_no
    UNION ALL
    SELECT s.login_no, count(*) FROM spares s WHERE s.state IN ('building', 'ready') AND @cluster = 'default' GROUP BY s.login_no
), full_logins AS (
    SELECT login_no FROM places GROUP BY login_no HAVING sum(taken) >= @tenants_per_login::bigint
)
SELECT min(login_no)::integer
FROM (SELECT 0 AS login_no UNION ALL SELECT login_no + 1 FROM full_logins) candidates
WHERE login_no NOT IN (SELECT login_no FROM full_logins);

-- name: HasTenants :one
SELECT EXISTS (
    SELECT FROM tenants
    WHERE cluster = @cluster AND login_no = @login_no AND strategy = 'schema' AND status NOT IN ('failed', 'deleted')
);

-- name: InsertTenant :one
INSERT INTO tenants (
    id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name, schema_name, role_name, login_no,
    encrypted_password
) VALUES (
    @id, @slug, @company, @contact_name, @contact_email, @status, @cluster, @strategy, @database_name, @schema_name, @role_name,
    @login_no, @encrypted_password
)
RETURNING *;

-- name: GetTenant :one
SELECT * FROM tenants WHERE id = @id;

-- name: GetTenantForUpdate :one
SELECT * FROM tenants WHERE id = @id FOR UPDATE;

-- name: GetLivingTenant :one
SELECT * FROM tenants WHERE slug = @slug AND status NOT IN ('failed', 'deleted');

-- name: ListTenants :many
SELECT * FROM tenants
WHERE (slug, id) > (@after_slug, @after_id::uuid)
  AND (@status::text = '' OR status = @status::text)
ORDER BY slug, id
LIMIT @max_rows;

-- name: ListServedTenants :many
-- Those that are served, or may be again.
SELECT * FROM tenants WHERE status IN ('active', 'suspended') OR status = 'deleting' AND NOT purging ORDER BY slug;

-- name: ListProvisioningTenants :many
SELECT * FROM tenants WHERE status = 'provisioning' ORDER BY id;

-- name: FinishProvisioning :one
UPDATE tenants SET status = @status, encrypted_password = CASE WHEN @status = 'failed' THEN NULL ELSE encrypted_password END
WHERE id = @id AND status = 'provisioning'
RETURNING *;
