-- name: UnlinkLargeObjects :one
-- Drops some of the large objects that a role owns in this database, and says how many there were and which was the last one.
WITH owned AS MATERIALIZED (
    SELECT m.oid
    FROM pg_catalog.pg_largeobject_metadata m
    WHERE m.lomowner = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = @role::text) AND m.oid::bigint > @after::bigint
    ORDER BY m.oid
    LIMIT @max_rows
)
SELECT count(pg_catalog.lo_unlink(owned.oid)) AS unlinked, coalesce(max(owned.oid::bigint), 0)::bigint AS last FROM owned;

-- name: ListLargeObjectGrants :many
-- Some of the rights that others have given to a role on their large objects in this database.
SELECT DISTINCT m.oid::bigint AS object, pg_get_userbyid(a.grantor)::text AS grantor
FROM pg_catalog.pg_shdepend s
JOIN pg_catalog.pg_database d ON d.oid = s.dbid AND d.datname = current_database()
JOIN pg_catalog.pg_largeobject_metadata m ON m.oid = s.objid
CROSS JOIN LATERAL aclexplode(m.lomacl) a
WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.classid = 'pg_catalog.pg_largeobject'::regclass AND s.deptype = 'a'
  AND s.refobjid = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = @role::text)
  AND a.grantee = s.refobjid AND a.grantor <> s.refobjid AND pg_get_userbyid(a.grantor) <> current_user
ORDER BY 1, 2
LIMIT @max_rows;

-- name: HoldsAnything :one
-- Whether a role owns anything in this database, or has rights on something in it or of the whole server.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_shdepend s
    WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass
      AND s.refobjid = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = @role::text)
      AND s.dbid IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))
);

-- name: IsThere :one
-- Whether there is a schema, a database or a role of these names.
SELECT (EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = @schema_name::text)
    OR EXISTS (SELECT FROM pg_catalog.pg_database d WHERE d.datname = @database_name::text)
    OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = @role_name::text))::boolean AS is_there;

-- name: ListHouseOwners :many
-- Who owns the schemas and the databases of these names, as far as they are there.
SELECT pg_get_userbyid(n.nspowner)::text AS owner FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY (@schemas::text[])
UNION ALL
SELECT pg_get_userbyid(d.datdba)::text AS owner FROM pg_catalog.pg_database d WHERE d.datname = ANY (@databases::text[]);
