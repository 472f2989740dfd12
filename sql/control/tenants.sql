-- name: InsertTenant :one
INSERT INTO tenants (
    id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name, schema_name, role_name
) VALUES (
    @id, @slug, @company, @contact_name, @contact_email, 'provisioning', @cluster, @strategy, @database_name, @schema_name, @role_name
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
