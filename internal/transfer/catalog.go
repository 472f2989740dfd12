package transfer

import (
	"context"
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
				join pg_attribute a on a.attrelid = c.oid and a.attnum = k.no where k.place <= i.indnkeyatts and not a.attnotnull)
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

func (s *session) sequences(ctx context.Context) ([]sequence, error) {
	rows, err := s.Query(ctx, `select relname::text from pg_class where relnamespace = $1::regnamespace and relkind = 'S' order by 1`, quote(s.place.Schema))
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
		batch.Queue("select last_value, is_called from " + s.place.name(name)).QueryRow(func(row pgx.Row) error {
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
