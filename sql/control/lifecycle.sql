-- name: LockSlugs :exec
-- The locks that the triggers on tenants take, in one order.
SELECT pg_advisory_xact_lock(k.key)
FROM (SELECT DISTINCT hashtextextended('leasehold slug ' || s, 0) AS key FROM unnest(@slugs::text[]) AS s ORDER BY 1) AS k;

-- name: RenameTenant :one
UPDATE tenants SET slug = @slug WHERE id = @id RETURNING *;

-- name: KeepFormerSlug :exec
INSERT INTO former_slugs (slug, tenant_id, until) VALUES (@slug, @tenant_id, now() + make_interval(secs => @keep_seconds::float8))
ON CONFLICT (slug) DO UPDATE SET tenant_id = excluded.tenant_id, until = excluded.until;

-- name: DeleteFormerSlug :exec
DELETE FROM former_slugs WHERE slug = @slug;

-- name: DeleteFormerSlugsOf :exec
DELETE FROM former_slugs WHERE tenant_id = @tenant_id;

-- name: DeleteOldFormerSlugs :exec
DELETE FROM former_slugs WHERE until <= now();

-- name: FindTenant :one
-- The living tenant that has the slug or, for some time, had it.
SELECT * FROM tenants t
WHERE t.status NOT IN ('failed', 'deleted')
  AND (t.slug = @slug OR t.id = (SELECT f.tenant_id FROM former_slugs f WHERE f.slug = @slug AND f.until > now()))
ORDER BY t.slug = @slug DESC
LIMIT 1;

-- name: ListNamesOf :many
-- All that leads to a tenant besides its slug.
SELECT d.name FROM domains d WHERE d.tenant_id = @tenant_id
UNION ALL
SELECT f.slug FROM former_slugs f WHERE f.tenant_id = @tenant_id;

-- name: SetStatus :one
UPDATE tenants SET status = @status WHERE id = @id RETURNING *;

-- name: SetDeletion :one
-- What it was before is kept from the first time.
UPDATE tenants
SET status = 'deleting', delete_after = now() + make_interval(secs => @grace_seconds::float8),
    was_suspended = CASE WHEN status = 'deleting' THEN was_suspended ELSE status = 'suspended' END
WHERE id = @id
RETURNING *;

-- name: CancelDeletion :one
UPDATE tenants
SET status = CASE WHEN was_suspended THEN 'suspended' ELSE 'active' END, delete_after = NULL, was_suspended = false
WHERE id = @id
RETURNING *;

-- name: ListDeletions :many
SELECT sqlc.embed(tenants), (delete_after <= now())::boolean AS is_due FROM tenants WHERE status = 'deleting' ORDER BY delete_after, id;

-- name: StartPurge :one
-- There is no row if the deletion was cancelled or put off.
UPDATE tenants SET purging = true WHERE id = @id AND status = 'deleting' AND (purging OR delete_after <= now()) RETURNING *;

-- name: FinishPurge :one
-- What is known of people goes.
UPDATE tenants
SET status = 'deleted', delete_after = NULL, purging = false, was_suspended = false, company = 'deleted', contact_name = 'deleted',
    contact_email = 'deleted@deleted.invalid', encrypted_password = NULL, next_encrypted_password = NULL
WHERE id = @id AND purging
RETURNING *;
