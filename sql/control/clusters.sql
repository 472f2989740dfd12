-- name: ListClusters :many
SELECT * FROM clusters ORDER BY name;

-- name: GetCluster :one
SELECT * FROM clusters WHERE name = @name;

-- name: GetClusterForUpdate :one
SELECT * FROM clusters WHERE name = @name FOR UPDATE;

-- name: CountLivingByCluster :many
-- With those that are on their way there.
SELECT places.cluster::text AS cluster, count(*) AS tenants
FROM (
    SELECT t.living_on AS cluster FROM tenants t WHERE t.living_on IS NOT NULL
    UNION ALL
    SELECT m.cluster FROM moves m WHERE m.state <> 'switched' AND m.cluster <> m.old_cluster
) places
GROUP BY places.cluster;

-- name: InsertCluster :execrows
INSERT INTO clusters (name, kind, strategy, max_tenants, encrypted_url, database_name)
VALUES (@name, @kind, @strategy, @max_tenants, @encrypted_url, @database_name)
ON CONFLICT DO NOTHING;

-- name: UpdateCluster :exec
UPDATE clusters
SET strategy = @strategy, max_tenants = @max_tenants, encrypted_url = @encrypted_url, pooler_url = @pooler_url
WHERE name = @name;

-- name: SetClusterDraining :execrows
UPDATE clusters SET draining = @draining WHERE name = @name;

-- name: DeleteCluster :execrows
DELETE FROM clusters WHERE name = @name;

-- name: ResealCluster :execrows
UPDATE clusters SET encrypted_url = @sealed WHERE name = @name AND encrypted_url = @before::bytea;

-- name: GetAdministrator :one
-- What the login that asks may do here.
SELECT (r.rolsuper OR r.rolcreaterole)::boolean AS creates_roles,
       (r.rolsuper OR r.rolcreatedb)::boolean AS creates_databases,
       has_database_privilege(d.oid, 'CREATE') AS creates_schemas,
       pg_has_role(d.datdba, 'USAGE') AS owns_database
FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
WHERE r.rolname = current_user AND d.datname = current_database();

-- name: ListOpenDatabases :many
-- Those that every login of the server may connect to.
SELECT d.datname::text
FROM pg_catalog.pg_database d
WHERE d.datallowconn AND EXISTS (
    SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT'
)
ORDER BY d.datname;

-- name: GetDatabaseLocale :one
-- The column of a locale has another name in each version.
SELECT pg_encoding_to_char(d.encoding)::text AS encoding, d.datcollate::text AS collate, d.datctype::text AS ctype,
       d.datlocprovider::text AS provider,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', '')::text AS locale,
       coalesce(to_jsonb(d) ->> 'daticurules', '')::text AS rules
FROM pg_catalog.pg_database d
WHERE d.datname = current_database();

-- name: MoveReservation :one
-- Nothing has been built yet.
UPDATE tenants
SET cluster = @cluster, strategy = @strategy, database_name = @database_name, login_no = @login_no, encrypted_password = @encrypted_password
WHERE id = @id AND status = 'provisioning'
RETURNING *;

-- name: ListSomeHoused :many
-- Some of the tenants that live on a cluster and are whole.
SELECT * FROM tenants
WHERE living_on = @cluster::text AND status IN ('active', 'suspended', 'deleting') AND NOT purging
ORDER BY id
LIMIT @max_rows;
