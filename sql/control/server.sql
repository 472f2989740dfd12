-- name: ServerVersion :one
SELECT current_setting('server_version_num')::int;

-- name: GetLogin :one
-- is_powerful is what only a superuser can give or take. The settings are what its sessions begin with, in all databases and in single ones.
SELECT (r.rolsuper OR r.rolreplication OR r.rolbypassrls)::boolean AS is_powerful,
       (r.rolcanlogin AND NOT r.rolinherit AND NOT r.rolcreaterole AND NOT r.rolcreatedb)::boolean AS is_plain,
       (coalesce(r.rolconfig = ARRAY['search_path=""'], false) AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase <> 0
       ))::boolean AS has_plain_settings,
       has_database_privilege(r.oid, current_database(), 'CONNECT') AS may_connect
FROM pg_catalog.pg_roles r
WHERE r.rolname = @name::text;

-- name: ListSettingDatabases :many
-- The databases for which a login has settings of its own.
SELECT d.datname::text
FROM pg_catalog.pg_db_role_setting s
JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
WHERE r.rolname = @login::text
ORDER BY d.datname;

-- name: ListRoles :many
SELECT rolname::text FROM pg_catalog.pg_roles WHERE starts_with(rolname, @prefix::text) ORDER BY rolname;

-- name: IsMember :one
-- Looks at the one membership: to ask pg_has_role walks all that the login has.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_auth_members m
    WHERE m.roleid = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = @role::text)
      AND m.member = (SELECT l.oid FROM pg_catalog.pg_roles l WHERE l.rolname = @login::text)
);

-- name: GetLockdown :one
SELECT pg_has_role(d.datdba, 'USAGE') AS owns_database,
       EXISTS (
           SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
           WHERE a.grantee = 0 AND a.privilege_type IN ('CONNECT', 'TEMPORARY')
       ) AS database_is_open,
       coalesce((SELECT pg_has_role(n.nspowner, 'USAGE') FROM pg_catalog.pg_namespace n WHERE n.nspname = 'public'), false)::boolean AS owns_public,
       EXISTS (
           SELECT FROM pg_catalog.pg_namespace n, aclexplode(n.nspacl) a
           WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'
       ) AS public_is_open
FROM pg_catalog.pg_database d
WHERE d.datname = current_database();

-- name: GetSchemaOwner :one
SELECT pg_get_userbyid(n.nspowner)::text AS owner, (pg_get_userbyid(n.nspowner) = current_user)::boolean AS is_ours
FROM pg_catalog.pg_namespace n
WHERE n.nspname = @name::text;

-- name: TerminateMigrations :exec
-- Ends the migrations of a schema whose creator is gone: the server goes on with a statement when its client has died.
SELECT pg_terminate_backend(a.pid, 5000)
FROM pg_catalog.pg_stat_activity a
WHERE a.application_name = 'leasehold migrate' AND a.usename = current_user AND a.datname = current_database()
  AND a.pid IN (
      SELECT l.pid
      FROM pg_catalog.pg_locks l
      JOIN pg_catalog.pg_namespace n ON n.nspname = @schema_name::text
      WHERE (l.locktype = 'object' AND l.classid = 'pg_namespace'::regclass AND l.objid = n.oid)
         OR (l.locktype = 'relation' AND l.relation IN (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid))
  );
