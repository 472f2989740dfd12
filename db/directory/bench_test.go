package directory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// signUpEvery is how long somebody who signs up comes after another, where that counts.
const signUpEvery = 250 * time.Millisecond

// BenchmarkSignUp signs companies up, one after the other, with the migrations of the sample product: from the call of Create to
// the answer to the tenant's first query; database gives each a database of its own. spares has them all beforehand, and kept has a filler at work beside the sign-ups,
// which come at intervals. It reports the median and the 99th percentile, and how many of a hundred got a spare.
func BenchmarkSignUp(b *testing.B) {
	for _, bm := range []struct {
		name string
		// filled is how many spares there are to begin with, kept how many are kept.
		filled   func(n int) int
		kept     int
		every    time.Duration
		strategy tenant.Strategy
	}{
		{"built", func(int) int { return 0 }, 0, 0, tenant.SchemaStrategy},
		{"spares", func(n int) int { return n + 1 }, 0, 0, tenant.SchemaStrategy},
		{"kept", func(int) int { return 8 }, 8, signUpEvery, tenant.SchemaStrategy},
		{"database", func(int) int { return 0 }, 0, 0, tenant.DatabaseStrategy},
	} {
		b.Run(bm.name, func(b *testing.B) { benchSignUp(b, bm.filled(b.N), bm.kept, bm.every, bm.strategy) })
	}
}

func benchSignUp(b *testing.B, filled, kept int, every time.Duration, strategy tenant.Strategy) {
	b.Helper()
	cfg := configOf(b, registryURL(b))
	set, err := migrate.Load(migrations.FS, "tenant")
	if err != nil {
		b.Fatal(err)
	}
	cfg.Migrator = migrate.New(set, migrate.Config{})
	fillTo(b, cfg, filled)
	cfg.Spares = kept
	d := openDirectory(b, cfg)
	db, err := tenantdb.Open(b.Context(), tenantdb.Config{ConnConfig: mustRuntimeConn(b, d), Login: d.LoginConn})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	signUp := func(subdomain string) (fromSpare bool) {
		n := company(subdomain)
		n.Strategy = strategy
		t := mustHouse(b, d, n)
		var customers int
		if err := db.For(t).QueryRow(b.Context(), "SELECT count(*) FROM customers").Scan(&customers); err != nil {
			b.Fatal(err)
		}
		return t.Generation == 1 // one that is built changes when it is finished
	}
	signUp("first") // opens the pools
	ctx, stop := context.WithCancel(b.Context())
	var filler sync.WaitGroup
	if kept > 0 {
		filler.Go(func() {
			if err := d.KeepSpares(ctx); err != nil {
				b.Errorf("KeepSpares: %v", err)
			}
		})
	}
	took := make([]time.Duration, 0, b.N)
	spares := 0
	turn := time.NewTicker(max(every, time.Nanosecond))
	defer turn.Stop()
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		<-turn.C
		b.StartTimer()
		start := time.Now()
		if signUp(fmt.Sprintf("c%d", i)) {
			spares++
		}
		took = append(took, time.Since(start))
	}
	b.StopTimer()
	stop()
	filler.Wait()
	slices.Sort(took)
	ms := func(percent int) float64 { return took[(len(took)-1)*percent/100].Seconds() * 1000 }
	b.ReportMetric(ms(50), "p50-ms")
	b.ReportMetric(ms(99), "p99-ms")
	b.ReportMetric(float64(spares)*100/float64(b.N), "%from-spares")
}
