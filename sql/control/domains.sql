-- name: InsertDomain :one
INSERT INTO domains (name, tenant_id) VALUES (@name, @tenant_id) RETURNING *;

-- name: GetDomain :one
SELECT * FROM domains WHERE name = @name AND tenant_id = @tenant_id;

-- name: GetDomainOwner :one
SELECT tenant_id FROM domains WHERE name = @name AND verified_at IS NOT NULL;

-- name: GetTenantOfDomain :one
SELECT t.* FROM domains d JOIN tenants t ON t.id = d.tenant_id
WHERE d.name = @name AND d.verified_at IS NOT NULL AND t.status NOT IN ('failed', 'deleted');

-- name: ListDomains :many
SELECT * FROM domains WHERE tenant_id = @tenant_id ORDER BY name;

-- name: VerifyDomain :one
-- There is no row if the claim was removed, or made anew with another token.
UPDATE domains SET verified_at = coalesce(verified_at, now()) WHERE name = @name AND tenant_id = @tenant_id AND token = @token
RETURNING *;

-- name: DeleteDomain :execrows
DELETE FROM domains WHERE name = @name AND tenant_id = @tenant_id;

-- name: DeleteDomainsOf :exec
DELETE FROM domains WHERE tenant_id = @tenant_id;

-- name: CountDomains :one
SELECT count(*) FROM domains WHERE tenant_id = @tenant_id;
