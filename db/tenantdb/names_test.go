package tenantdb_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// THREATS 19: a name stands for the statement of one tenant, and is kept while other tenants send the same SQL.
func TestEachTenantHasItsOwnNamedStatements(t *testing.T) {
	t.Parallel()
	const sql = "SELECT owner FROM items WHERE id = $1"
	for name, read := range map[string]func(ctx context.Context, db *tenantdb.DB) (string, error){
		"single": func(ctx context.Context, db *tenantdb.DB) (owner string, err error) {
			return owner, db.QueryRow(ctx, sql, 1).Scan(&owner)
		},
		"batch": func(ctx context.Context, db *tenantdb.DB) (owner string, err error) {
			var b pgx.Batch
			b.Queue(sql, 1).QueryRow(func(row pgx.Row) error { return row.Scan(&owner) })
			return owner, db.SendBatch(ctx, &b).Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 3)
			db := f.open(t, tenantdb.Config{MaxConns: 1})
			round := func() (names []string) {
				t.Helper()
				for i, tn := range f.tenants {
					if owner, err := read(f.ctx(t, i), db); err != nil || owner != string(tn.Slug) {
						t.Errorf("%s read %q, %v", tn.Slug, owner, err)
					}
				}
				db.RawConn(t, func(ctx context.Context, conn *pgx.Conn) {
					rows, err := conn.Query(ctx, "SELECT name FROM pg_prepared_statements WHERE statement = $1", sql)
					if err != nil {
						t.Fatal(err)
					}
					if names, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
						t.Fatal(err)
					}
				})
				slices.Sort(names)
				return names
			}
			for range 3 { // described, named, warm
				round()
			}
			names := round()
			if len(names) != len(f.tenants) {
				t.Errorf("the names are %q; want one for each of %d tenants", names, len(f.tenants))
			}
			if diff := cmp.Diff(names, round()); diff != "" {
				t.Errorf("the names have changed, before - and after +:\n%s", diff)
			}
		})
	}
}

// THREATS 20: what is known of one tenant's type says nothing of another's, even if somebody has registered the type.
func TestATypeOfOneTenantIsAskedOfNoOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	conn, err := pgx.Connect(t.Context(), f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var oid uint32
	if err := conn.QueryRow(t.Context(), "SELECT to_regtype($1)::oid", f.tenants[0].Placement.Schema+".mood").Scan(&oid); err != nil {
		t.Fatal(err)
	}
	db := f.open(t, tenantdb.Config{MaxConns: 1, RegisterTypes: func(m *pgtype.Map) { // which it says not to do
		m.RegisterType(&pgtype.Type{Name: "mood", OID: oid, Codec: pgtype.ByteaCodec{}}) // which prefers binary
	}})
	format := func(i int) int16 {
		t.Helper()
		rows, err := db.Query(f.ctx(t, i), "SELECT mood FROM items WHERE id = $1", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		return rows.FieldDescriptions()[0].Format
	}
	if format(0) != pgx.BinaryFormatCode {
		t.Fatal("the first tenant's type is not read as it was registered: the test does not test")
	}
	if format(1) != pgx.TextFormatCode {
		t.Error("the second tenant was asked for its type in the form of the first one's")
	}
}

// A column that changes its type between a statement's first use and its second is read as what it is, also when the statement
// has a name.
func TestAColumnThatChangedBeforeTheStatementWasNamedIsRead(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	const sql = "SELECT mood FROM items WHERE id = 1"
	var mood string
	if err := db.QueryRow(f.ctx(t, 0), sql).Scan(&mood); err != nil || mood != "only-co-0" {
		t.Fatalf("got %q, %v", mood, err)
	}
	f.admin(t, 0, "ALTER TABLE items ALTER mood DROP DEFAULT, ALTER mood TYPE int USING 42")
	for range 4 { // named, and then by its name
		var number int
		if err := db.QueryRow(f.ctx(t, 0), sql).Scan(&number); err != nil || number != 42 {
			t.Errorf("got %d, %v; want 42", number, err)
		}
	}
}
