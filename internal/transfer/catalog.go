package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// table is a table that holds rows of its own: an ordinary one, or a partition.
type table struct {
	name string
	// columns are those that are written; generated ones are not.
	columns []string
	// key are columns that tell rows apart and are never null. There may be none.
	key []string
}

// tablesSQL reads the tables, the largest first. A key is that of the primary key, or of a unique index over plain columns.
const tablesSQL = `select c.relname::text, array(select a.attname::text from pg_attribute a
		where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by a.attnum),
	coalesce((select array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality k (no, place)
			join pg_attribute a on a.attrelid = c.oid and a.attnum = k.no where k.place <= i.indnkeyatts order by k.place)
		from pg_index i where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
			and not exists (select from unnest(i.indkey::int2[]) with ordinality k (no, place)
				join pg_attribute a on a.attrelid = c.oid and a.attnum = k.no where k.place <= i.indnkeyatts
				and (not a.attnotnull or exists (select from pg_constraint n
					where n.conrelid = c.oid and n.contype = 'n' and not n.convalidated and a.attnum = any (n.conkey))))
		order by i.indisprimary desc, i.indexrelid limit 1), '{}')
	from pg_class c where c.relnamespace = $1::regnamespace and c.relkind = 'r' order by pg_table_size(c.oid) desc, c.relname`

func (s *session) tables(ctx context.Context) ([]table, error) {
	rows, err := s.Query(ctx, tablesSQL, quote(s.place.Schema))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		return t, row.Scan(&t.name, &t.columns, &t.key)
	})
}

// lockTables locks all tables until the end of the transaction. It does not take the transaction's snapshot.
func (s *session) lockTables(ctx context.Context, tables []table, mode string) error {
	if len(tables) == 0 {
		return nil
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = "only " + s.place.name(t.name)
	}
	return s.run(ctx, "lock table "+strings.Join(names, ", ")+" in "+mode)
}

// name is the quoted name of something in the schema.
func (p Place) name(name string) string { return pgx.Identifier{p.Schema, name}.Sanitize() }

// list is what stands behind a table's name in COPY.
func (t table) list() string {
	if len(t.columns) == 0 {
		return ""
	}
	return " (" + quoteAll(t.columns, "") + ")"
}

// Sum is what of a table's rows is compared: how many there are, and the sum of a hash of each, whatever their order.
type Sum struct {
	Rows     int64  `json:"rows"`
	Checksum string `json:"checksum"`
}

const sumColumns = `select count(*), coalesce(sum(pg_catalog.hashtextextended((leasehold_row.*)::text collate "C", 0)), 0)::text`

// rows is the table's rows, for sum.
func (t table) rows(p Place) string { return "only " + p.name(t.name) + " as leasehold_row" }

// rowsWith is the table's rows that have one of the keys in a relation.
func (t table) rowsWith(p Place, keys string) string {
	return t.rows(p) + " join (select distinct * from " + keys + ") leasehold_key on " + t.sameKey()
}

// sum sums up rows of a table.
func (s *session) sum(ctx context.Context, t table, rows string) (sum Sum, err error) {
	if err := s.QueryRow(ctx, sumColumns+" from "+rows).Scan(&sum.Rows, &sum.Checksum); err != nil {
		return sum, fmt.Errorf("sum up %s: %w", t.name, err)
	}
	return sum, nil
}

// sameKey is the condition that a row has a key.
func (t table) sameKey() string {
	parts := make([]string, len(t.key))
	for i, column := range t.key {
		parts[i] = "leasehold_row." + quote(column) + " = leasehold_key." + quote(column)
	}
	return strings.Join(parts, " and ")
}

// sequence is what a sequence has come to.
type sequence struct {
	name   string
	last   int64
	called bool
}

func (s *session) sequences(ctx context.Context, schema string) ([]sequence, error) {
	rows, err := s.Query(ctx, `select relname::text from pg_class where relnamespace = $1::regnamespace and relkind = 'S' order by 1`, quote(schema))
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		return nil, err
	}
	sequences := make([]sequence, len(names))
	batch := &pgx.Batch{}
	for i, name := range names {
		sequences[i].name = name
		batch.Queue("select last_value, is_called from " + pgx.Identifier{schema, name}.Sanitize()).QueryRow(func(row pgx.Row) error {
			return row.Scan(&sequences[i].last, &sequences[i].called)
		})
	}
	return sequences, s.SendBatch(ctx, batch).Close()
}

func (s *session) setSequences(ctx context.Context, sequences []sequence) error {
	batch := &pgx.Batch{}
	for _, q := range sequences {
		batch.Queue(`select pg_catalog.setval($1::regclass, $2, $3)`, s.place.name(q.name), q.last, q.called)
	}
	return s.SendBatch(ctx, batch).Close()
}

// ownedLargeObjectsSQL are the large objects of the role $2 in this database.
const ownedLargeObjectsSQL = `select s.objid from pg_shdepend s join pg_database d on d.oid = s.dbid and d.datname = current_database()
	where s.refclassid = 'pg_authid'::regclass and s.refobjid = to_regrole(quote_ident($2)) and s.classid = 'pg_largeobject'::regclass and s.deptype = 'o'`

// strangersSQL describes what would be left behind, or would become somebody else's. Casts and functions that are parts of range types
// come with them.
const strangersSQL = `with ns as (select oid, nspowner from pg_namespace where nspname = $1)
	select format('%s large objects of the role %s', count(*), $2::text) from (` + ownedLargeObjectsSQL + `) large having count(*) > 0
	union all select format('the extension %s', extname) from pg_extension where extnamespace = (select oid from ns)
	union all select format('the cast from %s to %s', castsource::regtype, casttarget::regtype) from pg_cast k
		where exists (select from pg_type t join ns on typnamespace = ns.oid where t.oid in (castsource, casttarget))
		and not exists (select from pg_depend d where d.classid = 'pg_cast'::regclass and d.objid = k.oid and d.deptype = 'i')
	union all select format('%s of the owner %s', c.oid::regclass, pg_get_userbyid(relowner)) from pg_class c join ns on relnamespace = ns.oid
		where relowner <> nspowner and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
	union all select format('%s of the owner %s', p.oid::regprocedure, pg_get_userbyid(proowner)) from pg_proc p join ns on pronamespace = ns.oid
		where proowner <> nspowner and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'i')`

// mustBeAllOurs refuses a schema with something in it, or beside it, that could not be carried over as it is.
func (s *session) mustBeAllOurs(ctx context.Context) error {
	rows, err := s.Query(ctx, strangersSQL, s.place.Schema, s.place.Role)
	if err != nil {
		return err
	}
	strangers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(strangers) > 0 {
		err = fmt.Errorf("%w: this cannot be carried over: %s", errors.ErrUnsupported, strings.Join(strangers, ", "))
	}
	return err
}

// fingerprintSQL sums up all that defines a schema, but for indexes, comments, the schema's name, and our own triggers: which objects
// there are, and by which transactions they were written. Calls are held meanwhile: nothing of it reads a whole catalogue.
const fingerprintSQL = `with members as materialized (
		select classid, objid from pg_depend where refclassid = 'pg_namespace'::regclass and refobjid = to_regnamespace(quote_ident($1))),
	types as materialized (
		select t.oid, t.xmin as made, typrelid from pg_type t where t.oid in (select objid from members where classid = 'pg_type'::regclass)),
	rels as materialized (
		select oid, relacl, reloptions, relrowsecurity, relforcerowsecurity from pg_class
		where oid in (select objid from members where classid = 'pg_class'::regclass union all select typrelid from types))
	select coalesce(sum(pg_catalog.hashtextextended(what, 0)), 0)::text from (
	select concat_ws(' ', classid, objid) as what from members
	union all select concat_ws(' ', 'class', oid, relacl, reloptions, relrowsecurity, relforcerowsecurity) from rels
	union all select concat_ws(' ', 'type', oid, made) from types
	union all select concat_ws(' ', 'enum', e.oid, e.xmin) from pg_enum e where enumtypid in (select oid from types)
	union all select concat_ws(' ', 'function', p.oid, p.xmin) from pg_proc p where p.oid in (select objid from members where classid = 'pg_proc'::regclass)
	union all select concat_ws(' ', 'column', attrelid, attnum, a.xmin) from pg_attribute a where attrelid in (select oid from rels) and attnum > 0
	union all select concat_ws(' ', 'default', a.oid, a.xmin) from pg_attrdef a where adrelid in (select oid from rels)
	union all select concat_ws(' ', 'sequence', seqrelid, s.xmin) from pg_sequence s where seqrelid in (select oid from rels)
	union all select concat_ws(' ', 'rule', r.oid, r.xmin) from pg_rewrite r where ev_class in (select oid from rels)
	union all select concat_ws(' ', 'policy', p.oid, p.xmin) from pg_policy p where polrelid in (select oid from rels)
	union all select concat_ws(' ', 'trigger', t.oid, t.xmin) from pg_trigger t
		where tgrelid in (select oid from rels) and not tgisinternal and tgname not like $3
	union all select concat_ws(' ', 'constraint', c.oid, c.xmin) from pg_constraint c where conrelid in (select oid from rels) and contype <> 't'
	union all select concat_ws(' ', 'constraint', c.oid, c.xmin) from pg_constraint c where contypid in (select oid from types)
	union all select concat_ws(' ', 'large object', objid) from (` + ownedLargeObjectsSQL + `) large) all_of_it`

// fingerprint is another one when something in the schema was defined anew.
func (s *session) fingerprint(ctx context.Context, schema string) (sum string, err error) {
	return sum, s.QueryRow(ctx, fingerprintSQL, schema, s.place.Role, triggerName+"%").Scan(&sum)
}
