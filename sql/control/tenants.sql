-- name: ChooseLogin :one
-- The lowest number whose login has room for a living tenant or a spare. It holds until the transaction ends, if the reservation
-- lock was taken by an earlier statement of the transaction. No login is a member of a reference's role.
WITH places AS (
    SELECT login_no, count(*) AS taken FROM tenants WHERE status NOT IN ('failed', 'deleted') GROUP BY login_no
    UNION ALL
    SELECT login_no, count(*) FROM spares WHERE state IN ('building', 'ready') GROUP BY login_no
), full_logins AS (
    SELECT login_no FROM places GROUP BY login_no HAVING sum(taken) >= @tenants_per_login::bigint
)
SELECT min(login_no)::integer
FROM (SELECT 0 AS login_no UNION ALL SELECT login_no + 1 FROM full_logins) candidates
WHERE login_no NOT IN (SELECT login_no FROM full_logins);

-- name: HasTenants :one
SELECT EXISTS (SELECT FROM tenants WHERE login_no = @login_no AND status NOT IN ('failed', 'deleted'));

-- name: InsertTenant :one
INSERT INTO tenants (
    id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name, schema_name, role_name, login_no
) VALUES (
    @id, @slug, @company, @contact_name, @contact_email, @status, @cluster, @strategy, @database_name, @schema_name, @role_name,
    @login_no
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
SELECT * FROM tenants WHERE status IN ('active', 'suspended') ORDER BY slug;

-- name: ListProvisioningTenants :many
SELECT * FROM tenants WHERE status = 'provisioning' ORDER BY id;

-- name: FinishProvisioning :one
UPDATE tenants SET status = @status WHERE id = @id AND status = 'provisioning'
RETURNING *;
