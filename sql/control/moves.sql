-- name: GetMove :one
SELECT * FROM moves WHERE tenant_id = @tenant_id;

-- name: ListMoves :many
SELECT sqlc.embed(m), sqlc.embed(tenants)
FROM moves m JOIN tenants ON tenants.id = m.tenant_id
ORDER BY m.started_at, m.tenant_id;

-- name: InsertMove :one
INSERT INTO moves (
    tenant_id, cluster, strategy, database_name, login_no, encrypted_password, old_cluster, old_strategy, old_database_name, old_login_no
) VALUES (
    @tenant_id, @cluster, @strategy, @database_name, @login_no, @encrypted_password, @old_cluster, @old_strategy, @old_database_name,
    @old_login_no
)
RETURNING *;

-- name: SetMoveHolding :execrows
UPDATE moves SET holding = @holding WHERE tenant_id = @tenant_id AND (state = 'running' OR NOT @holding);

-- name: SetMovePassword :exec
UPDATE moves SET encrypted_password = @sealed WHERE tenant_id = @tenant_id AND state <> 'switched';

-- name: ResealMove :execrows
-- Unless the password was changed since it was read.
UPDATE moves SET encrypted_password = @sealed WHERE tenant_id = @tenant_id AND encrypted_password = @before::bytea;

-- name: AbortMove :execrows
-- From now on the move cannot be switched.
UPDATE moves SET state = 'aborting' WHERE tenant_id = @tenant_id AND state <> 'switched';

-- name: SwitchMove :execrows
UPDATE moves SET state = 'switched', holding = false, switched_at = now() WHERE tenant_id = @tenant_id AND state = 'running';

-- name: SwitchTenant :execrows
-- A tenant that is to be deleted stays where it is, and so does one whose password was changed, which its login may have at both places.
UPDATE tenants t
SET cluster = m.cluster, strategy = m.strategy, database_name = m.database_name, login_no = m.login_no,
    encrypted_password = m.encrypted_password, next_encrypted_password = NULL
FROM moves m
WHERE t.id = @tenant_id AND m.tenant_id = t.id AND t.status IN ('active', 'suspended')
  AND t.cluster = m.old_cluster AND t.strategy = m.old_strategy AND t.database_name = m.old_database_name
  AND (t.strategy = 'schema' OR m.strategy = 'schema'
       OR t.encrypted_password = m.encrypted_password AND t.next_encrypted_password IS NULL);

-- name: FinishMove :exec
UPDATE moves SET finished = true WHERE tenant_id = @tenant_id AND state = 'switched';

-- name: DeleteMove :exec
DELETE FROM moves WHERE tenant_id = @tenant_id;

-- name: GetWhereabouts :one
-- Where a tenant is, and whether its calls are to wait.
SELECT sqlc.embed(tenants), coalesce(m.holding, false)::boolean AS holding
FROM tenants LEFT JOIN moves m ON m.tenant_id = tenants.id
WHERE tenants.id = @tenant_id;
