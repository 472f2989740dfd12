-- name: ListDependencies :many
-- All that belongs to a schema, and whatever depends on that, wherever it is: one row for each dependency between two of them.
WITH RECURSIVE edges AS (
    SELECT d.classid, d.objid, d.objsubid, d.refclassid, d.refobjid, d.refobjsubid, d.deptype
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND n.nspname = @schema_name::text
    UNION
    SELECT d.classid, d.objid, d.objsubid, d.refclassid, d.refobjid, d.refobjsubid, d.deptype
    FROM edges e
    JOIN pg_catalog.pg_depend d ON d.refclassid = e.classid AND d.refobjid = e.objid
)
SELECT classid::bigint AS class, objid::bigint AS object, objsubid AS part, refclassid::bigint AS on_class, refobjid::bigint AS on_object,
       refobjsubid AS on_part, deptype::text AS kind
FROM edges
ORDER BY 1, 2, 3, 4, 5, 6, 7;

-- name: ListDroppable :many
-- What can be dropped by itself in a schema: all that is a member of it and of no extension and no other object, and the foreign keys,
-- with the statement that drops each.
SELECT d.classid::bigint AS class, d.objid::bigint AS object,
       format('DROP %s IF EXISTS %s CASCADE',
              CASE o.type WHEN 'composite type' THEN 'TYPE' WHEN 'statistics object' THEN 'STATISTICS' ELSE upper(o.type) END,
              o.identity)::text AS statement
FROM pg_catalog.pg_namespace n
JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid
CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) AS o
WHERE n.nspname = @schema_name::text AND d.deptype = 'n'
  AND d.classid <> ALL ('{pg_catalog.pg_default_acl,pg_catalog.pg_publication_namespace}'::regclass[])
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend i WHERE i.classid = d.classid AND i.objid = d.objid AND i.objsubid = 0 AND i.deptype IN ('e', 'i')
  )
UNION ALL
SELECT 'pg_catalog.pg_constraint'::regclass::bigint, k.oid::bigint,
       format('ALTER TABLE IF EXISTS %I.%I DROP CONSTRAINT IF EXISTS %I CASCADE', n.nspname, c.relname, k.conname)::text
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = @schema_name::text AND k.contype = 'f' AND k.conparentid = 0 AND c.relkind IN ('r', 'p', 'f')
ORDER BY 1, 2;

-- name: ListOutsiders :many
-- What stands in another schema and depends on something in this one.
WITH RECURSIVE edges AS (
    SELECT d.classid, d.objid
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND n.nspname = @schema_name::text
    UNION
    SELECT d.classid, d.objid
    FROM edges e
    JOIN pg_catalog.pg_depend d ON d.refclassid = e.classid AND d.refobjid = e.objid
), homes AS (
    SELECT e.classid, e.objid,
           CASE e.classid
               WHEN 'pg_catalog.pg_class'::regclass THEN (SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = e.objid)
               WHEN 'pg_catalog.pg_type'::regclass THEN (SELECT t.typnamespace FROM pg_catalog.pg_type t WHERE t.oid = e.objid)
               WHEN 'pg_catalog.pg_proc'::regclass THEN (SELECT p.pronamespace FROM pg_catalog.pg_proc p WHERE p.oid = e.objid)
               WHEN 'pg_catalog.pg_constraint'::regclass THEN (SELECT k.connamespace FROM pg_catalog.pg_constraint k WHERE k.oid = e.objid)
               WHEN 'pg_catalog.pg_trigger'::regclass THEN (
                   SELECT c.relnamespace FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid WHERE t.oid = e.objid
                       AND NOT t.tgisinternal)
               WHEN 'pg_catalog.pg_rewrite'::regclass THEN (
                   SELECT c.relnamespace FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class WHERE r.oid = e.objid)
               WHEN 'pg_catalog.pg_attrdef'::regclass THEN (
                   SELECT c.relnamespace FROM pg_catalog.pg_attrdef a JOIN pg_catalog.pg_class c ON c.oid = a.adrelid WHERE a.oid = e.objid)
               WHEN 'pg_catalog.pg_policy'::regclass THEN (
                   SELECT c.relnamespace FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid WHERE p.oid = e.objid)
           END AS home
    FROM edges e
)
SELECT pg_catalog.pg_describe_object(h.classid, h.objid, 0)::text AS description
FROM homes h
JOIN pg_catalog.pg_namespace n ON n.oid = h.home
WHERE n.nspname <> @schema_name::text AND n.nspname NOT LIKE 'pg\_toast%'
ORDER BY 1;
