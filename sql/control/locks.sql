-- name: Lock :exec
SELECT pg_advisory_lock(@key::bigint);

-- name: TryLock :one
SELECT pg_try_advisory_lock(@key::bigint);

-- name: LockTransaction :exec
SELECT pg_advisory_xact_lock(@key::bigint);

-- name: UnlockAll :exec
SELECT pg_advisory_unlock_all();
