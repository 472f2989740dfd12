-- name: GetCredential :one
SELECT id, role_name, encrypted_password, next_encrypted_password FROM tenants
WHERE cluster = @cluster AND database_name = @database_name AND strategy = 'database' AND status NOT IN ('failed', 'deleted');

-- name: ListCredentials :many
SELECT id, encrypted_password, next_encrypted_password FROM tenants
WHERE encrypted_password IS NOT NULL AND id > @after::uuid
ORDER BY id
LIMIT @max_rows;

-- name: SetNextPassword :execrows
UPDATE tenants SET next_encrypted_password = @sealed
WHERE id = @id AND next_encrypted_password IS NOT DISTINCT FROM @before::bytea;

-- name: FinishRotation :execrows
UPDATE tenants SET encrypted_password = next_encrypted_password, next_encrypted_password = NULL
WHERE id = @id AND next_encrypted_password = @sealed::bytea;

-- name: ResealCredential :execrows
-- Unless the password was changed since it was read.
UPDATE tenants SET encrypted_password = @sealed, next_encrypted_password = @next_sealed
WHERE id = @id AND encrypted_password = @before::bytea AND next_encrypted_password IS NOT DISTINCT FROM @next_before::bytea;
