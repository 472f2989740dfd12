-- name: AppendEvent :exec
INSERT INTO events (tenant_id, kind, detail) VALUES (@tenant_id, @kind, @detail);

-- name: ListEvents :many
SELECT * FROM events WHERE tenant_id = @tenant_id ORDER BY id;
