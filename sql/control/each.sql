-- name: ListTenantIDs :many
SELECT id FROM tenants WHERE id > @after AND status = ANY (@statuses::text[]) ORDER BY id LIMIT @max_rows;

-- name: CountTenantsAfter :one
SELECT count(*) FROM tenants WHERE id > @after AND status = ANY (@statuses::text[]);
