package history_test

// shapeQuery lists what is in the first schema of the search_path, one thing a line.
const shapeQuery = `
WITH s AS (SELECT current_schema()::regnamespace::oid AS oid),
r AS (SELECT c.* FROM pg_class AS c, s WHERE c.relnamespace = s.oid)
SELECT line FROM (
	SELECT format('relation %s %s %s %s %s %s', relname, relkind, relpersistence, relrowsecurity, pg_get_expr(relpartbound, oid), reloptions) FROM r
	UNION ALL
	SELECT format('column %s.%s %s %s %s %s %s', r.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
		a.attgenerated, pg_get_expr(d.adbin, d.adrelid))
	FROM r JOIN pg_attribute AS a ON a.attrelid = r.oid LEFT JOIN pg_attrdef AS d ON d.adrelid = r.oid AND d.adnum = a.attnum
	WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind IN ('r', 'p', 'v', 'm', 'c')
	UNION ALL
	SELECT format('constraint %s%s.%s %s %s', r.relname, t.typname, c.conname, c.convalidated, pg_get_constraintdef(c.oid))
	FROM pg_constraint AS c JOIN s ON c.connamespace = s.oid LEFT JOIN r ON r.oid = c.conrelid LEFT JOIN pg_type AS t ON t.oid = c.contypid
	UNION ALL
	SELECT format('index %s %s', pg_get_indexdef(i.indexrelid), i.indisvalid) FROM pg_index AS i JOIN r ON r.oid = i.indexrelid
	UNION ALL
	SELECT format('inherits %s %s', r.relname, i.inhparent::regclass) FROM pg_inherits AS i JOIN r ON r.oid = i.inhrelid
	UNION ALL
	SELECT format('trigger %s', pg_get_triggerdef(t.oid)) FROM pg_trigger AS t JOIN r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
	UNION ALL
	SELECT format('routine %s', pg_get_functiondef(p.oid)) FROM pg_proc AS p JOIN s ON p.pronamespace = s.oid
	UNION ALL
	SELECT format('view %s %s', r.relname, pg_get_viewdef(r.oid)) FROM r WHERE r.relkind IN ('v', 'm')
	UNION ALL
	SELECT format('rule %s', pg_get_ruledef(w.oid)) FROM pg_rewrite AS w JOIN r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
	UNION ALL
	SELECT format('type %s %s %s %s', t.typname, t.typtype, t.typbasetype::regtype, t.typnotnull)
	FROM pg_type AS t JOIN s ON t.typnamespace = s.oid WHERE t.typtype IN ('e', 'd')
	UNION ALL
	SELECT format('label %s %s', t.typname, string_agg(e.enumlabel, ' ' ORDER BY e.enumsortorder))
	FROM pg_enum AS e JOIN pg_type AS t ON t.oid = e.enumtypid JOIN s ON t.typnamespace = s.oid GROUP BY t.typname
	UNION ALL
	SELECT format('policy %s.%s %s %s %s', r.relname, p.polname, p.polcmd, pg_get_expr(p.polqual, r.oid), pg_get_expr(p.polwithcheck, r.oid))
	FROM pg_policy AS p JOIN r ON r.oid = p.polrelid
	UNION ALL
	SELECT format('statistics %s', pg_get_statisticsobjdef(e.oid)) FROM pg_statistic_ext AS e JOIN s ON e.stxnamespace = s.oid
	UNION ALL
	SELECT format('sequence %s %s %s', r.relname, q.seqtypid::regtype, q.seqstart) FROM pg_sequence AS q JOIN r ON r.oid = q.seqrelid
	UNION ALL
	SELECT format('comment %s %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description) FROM pg_description AS d
	WHERE d.objoid IN (SELECT oid FROM r) OR d.objoid IN (SELECT t.oid FROM pg_type AS t JOIN s ON t.typnamespace = s.oid)
) AS lines (line) ORDER BY line COLLATE "C"`
