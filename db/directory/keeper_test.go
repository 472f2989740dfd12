package directory

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// keptTime is a keeper whose fillings are noted with the time since its start.
type keptTime struct {
	keeper
	start   time.Time
	fillAt  []time.Duration
	outcome error // of each filling
	isLow   bool
	lowErr  error
	looks   int // calls of low
	wake    chan struct{}
}

func newKeptTime() *keptTime {
	k := &keptTime{start: time.Now(), wake: make(chan struct{}, 1)}
	k.keeper = keeper{
		fill: func(context.Context) error {
			k.fillAt = append(k.fillAt, time.Since(k.start))
			return k.outcome
		},
		low: func(context.Context) (bool, error) {
			k.looks++
			return k.isLow, k.lowErr
		},
		taken: k.wake, logger: slog.New(slog.DiscardHandler),
	}
	return k
}

// gaps are the times between the fillings.
func (k *keptTime) gaps() []time.Duration {
	var gaps []time.Duration
	for i := 1; i < len(k.fillAt); i++ {
		gaps = append(gaps, k.fillAt[i]-k.fillAt[i-1])
	}
	return gaps
}

func wantBetween(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: %v, want %v to %v", what, got, low, high)
	}
}

func TestSparesAreFilledNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeptTime()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		k.run(ctx)
		if k.fillAt[0] != 0 || len(k.fillAt) < 40 || k.looks != 0 {
			t.Errorf("filled at %v", k.fillAt)
		}
		for _, gap := range k.gaps() {
			wantBetween(t, "between two fillings", gap, fillEvery/2, fillEvery*3/2)
		}
		wantBetween(t, "the end", time.Since(k.start), time.Hour, time.Hour)
	})
}

func TestTakenSparesAreMadeGoodWhenFewAreLeft(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		low   bool
		err   error
		fills int
	}{
		{"enough are left", false, nil, 1},
		{"few are left", true, nil, 2},
		{"nobody can say", false, errors.New("connection lost"), 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				k := newKeptTime()
				k.isLow, k.lowErr = tc.low, tc.err
				ctx, cancel := context.WithTimeout(t.Context(), fillEvery/2) // before anything happens by itself
				defer cancel()
				go func() {
					synctest.Wait()
					k.wake <- struct{}{} // a sign-up
				}()
				k.run(ctx)
				if len(k.fillAt) != tc.fills || k.looks != 1 {
					t.Errorf("filled at %v after %d looks, want %d fillings and one look", k.fillAt, k.looks, tc.fills)
				}
				for _, gap := range k.gaps() {
					wantBetween(t, "from the sign-up on", gap, settleTime/2, settleTime*3/2)
				}
			})
		})
	}
}

func TestFillingThatFailsIsTriedAgainLessAndLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeptTime()
		k.outcome, k.isLow = errors.New("division by zero"), true
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() {
			for ctx.Err() == nil { // sign-ups do not make it try sooner
				select {
				case k.wake <- struct{}{}:
				case <-ctx.Done():
				}
			}
		}()
		k.run(ctx)
		delay := firstRefill
		for _, gap := range k.gaps() {
			wantBetween(t, "between two tries", gap, delay/2, delay*3/2)
			delay = min(2*delay, lastRefill)
		}
		if len(k.gaps()) < 15 || delay != lastRefill || k.looks != 0 {
			t.Errorf("tried at %v, looked %d times", k.fillAt, k.looks)
		}
	})
}

func TestAKeeperThatSucceedsOnceIsDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeptTime()
		k.once = true
		k.run(t.Context())
		if len(k.fillAt) != 1 {
			t.Errorf("filled at %v, want once", k.fillAt)
		}
	})
}

// The whole of it: a process keeps spares, another signs tenants up.
func TestSparesAreKept(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	const keep = 4
	keeps, signsUp := openDirectory(t, keeping(t, url, keep)), openDirectory(t, configOf(t, url))
	admin := connectTo(t, url)
	ctx, stop := context.WithCancel(t.Context())
	outcome := make(chan error, 1)
	go func() { outcome <- keeps.KeepSpares(ctx) }()
	ready := func(n int) func() bool {
		return func() bool { return query[int](t, admin, `SELECT count(*) FROM spares WHERE state = 'ready'`) == n }
	}
	for round := range 3 {
		waitFor(t, "there are spares", ready(keep))
		d := signsUp // of which only the server tells the other
		if round > 0 {
			d = keeps
		}
		for i := range keep / 2 {
			mustCreate(t, d, "c"+string(rune('a'+round*keep+i)))
		}
	}
	waitFor(t, "there are spares again", ready(keep))
	stop()
	if err := <-outcome; err != nil {
		t.Errorf("KeepSpares: %v", err)
	}
	wantSpares(t, keeps, admin, keep)
	tenants, err := keeps.List(t.Context(), ListOptions{})
	if err != nil || len(tenants) != 3*keep/2 {
		t.Fatalf("List = %v, %v", tenants, err)
	}
	for _, tn := range tenants {
		if len(kinds(t, keeps, tn.ID)) != 2 {
			t.Errorf("%s was built", tn.Slug)
		}
	}
}
