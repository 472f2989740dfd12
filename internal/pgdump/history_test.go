package pgdump_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/history"
	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// The schema that two hundred migrations leave can be loaded again, and is the same then.
func TestLongHistory(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := pgtest.Connect(t, url)
	set, err := migrate.Load(history.Files(), history.Dir)
	if err != nil {
		t.Fatal(err)
	}
	house(t, conn, acme)
	cfg := pgdump.Config{Conn: connConfig(t, url), Schema: acme}
	if _, err := migrate.New(set, migrate.Config{}).Apply(t.Context(), migrate.Target{Schema: acme, Conn: cfg.Conn}); err != nil {
		t.Fatal(err)
	}
	first := dump(t, cfg)
	house(t, conn, umbra, first)
	cfg.Schema = umbra
	if diff := cmp.Diff(first, dump(t, cfg)); diff != "" {
		t.Error(diff)
	}
}
