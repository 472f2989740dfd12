-- name: InsertSpare :one
INSERT INTO spares (id, state, schema_name, role_name, login_no) VALUES (@id, @state, @schema_name, @role_name, @login_no)
RETURNING *;

-- name: ListSpares :many
SELECT * FROM spares WHERE state = ANY (@states::text[]) ORDER BY id;

-- name: CountSpares :one
SELECT count(*)::integer FROM spares WHERE state IN ('building', 'ready');

-- name: LockReadySpare :one
-- The oldest one that nobody else is about to take and that is not among those passed over.
SELECT * FROM spares s
WHERE s.state = 'ready' AND s.id <> ALL (@passed::uuid[])
  AND NOT EXISTS (SELECT FROM tenants t WHERE t.schema_name = s.schema_name OR t.role_name = s.role_name)
ORDER BY s.id
LIMIT 1
FOR UPDATE SKIP LOCKED;

-- name: LockSpare :one
-- There is no row if somebody is about to take the spare. What belongs to a tenant is no spare, whatever is written here.
SELECT * FROM spares s
WHERE s.id = @id
  AND NOT EXISTS (SELECT FROM tenants t WHERE t.schema_name = s.schema_name OR t.role_name = s.role_name)
FOR UPDATE SKIP LOCKED;

-- name: RetireSpare :exec
-- Nobody takes it any more, and a sweep drops it.
UPDATE spares SET state = 'reference' WHERE id = @id;

-- name: FinishSpare :execrows
UPDATE spares SET state = 'ready' WHERE id = @id AND state = 'building';

-- name: DeleteSpare :exec
DELETE FROM spares WHERE id = @id;
