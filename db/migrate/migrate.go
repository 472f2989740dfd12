package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Target is one schema to be migrated.
type Target struct {
	// Name is what people call it: a tenant's slug. It stands in results, errors and logs. Defaults to Schema.
	Name string
	// Schema is the schema's name: at most 63 of a-z, 0-9 and _, not beginning with a digit or pg_.
	Schema string
	// Conn says how to connect to the schema's database, as the role that owns the schema. It is copied, not changed.
	Conn *pgx.ConnConfig
	// ExtensionSchema is put behind Schema on the search_path. Defaults to none.
	ExtensionSchema string
	// Role is the role that the schema was made for, which has rights on what is in it. Only Check asks for it. Defaults to none.
	Role string
}

// Config is how to migrate.
type Config struct {
	// Workers is how many targets are worked on at a time, each with a connection. Defaults to a quarter of the connections that the
	// server of the first target has to spare, but 8 at most.
	Workers int
	// LockTimeout is how long a statement waits for a lock, while all who come after it wait for the statement. It is rounded to
	// milliseconds; a negative one means no limit. It does not hold for CONCURRENTLY, for which nobody waits. Defaults to 2 s.
	LockTimeout time.Duration
	// LockRetries is how often a file that ran out of LockTimeout, or was picked to end a deadlock, is tried again, after a pause
	// of about LockTimeout in which the queue can move. Files with transaction:false are not tried again. Negative for never.
	// Defaults to 4.
	LockRetries int
	// StatementTimeout bounds each statement, in milliseconds. Defaults to what the server says.
	StatementTimeout time.Duration
	// Logger is told of each file applied (info), of each retry (warn), and of the server's notices (debug). Errors are
	// returned, not logged. Defaults to none.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.LockTimeout = cmp.Or(c.LockTimeout, 2*time.Second)
	c.LockRetries = cmp.Or(c.LockRetries, 4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Migrator applies a Set to targets. It keeps nothing between calls; its methods may be called from several goroutines at a
// time, also for the same target.
type Migrator struct {
	set *Set
	cfg Config
}

// New returns a Migrator for the set, which must not be nil. It connects to nothing.
func New(set *Set, cfg Config) *Migrator {
	return &Migrator{set: set, cfg: cfg.withDefaults()}
}

// Result is what became of one target.
type Result struct {
	// Target and Schema are the Target's.
	Target, Schema string
	// Applied holds the names of the files that this call applied, in order, also if a later one failed. If it is empty and Err
	// is nil there was nothing to do.
	Applied []string
	// Duration is the time from the first to the last word with the server, waiting for other runners included.
	Duration time.Duration
	// Err is nil or an *Error.
	Err error
}

// Apply brings one target up to date. The error, also in the Result, is an *Error: the schema is missing
// ([ErrSchemaMissing]), the server cannot be reached, a file failed, the context ended. Files before the one that failed stay
// applied. Calling Apply again goes on from there.
//
// If all files are applied already this is known after two round trips, without a lock. If another runner works on the target,
// Apply waits for it, as long as the context allows.
func (m *Migrator) Apply(ctx context.Context, t Target) (Result, error) {
	t.Name = t.name()
	start := time.Now()
	applied, err := m.apply(ctx, t)
	result := Result{Target: t.Name, Schema: t.Schema, Applied: applied, Duration: time.Since(start)}
	result.Err = t.wrap(ctx, err)
	return result, result.Err
}

func (m *Migrator) apply(ctx context.Context, t Target) (applied []string, err error) {
	s, err := dial(ctx, t, m.cfg, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.enter(t, false, ledgerState{}); err != nil {
		return nil, err
	}
	if steps, err := m.set.forward(s.ledger); err != nil || len(steps) == 0 && !s.exposed {
		return nil, err
	}
	if err := s.arrive(t, s.ledgerState); err != nil {
		return nil, err
	}
	return s.travel(m.set, m.set.forward)
}

// arrive enters a target to change it.
func (s *session) arrive(t Target, known ledgerState) error {
	return s.persist(func() (string, bool, error) { return "", true, s.enter(t, true, known) })
}

// travel runs what a course of the set says, under the lock. It returns the names of the files that were run, also with an error.
func (s *session) travel(set *Set, c course) (done []string, err error) {
	if s.foreign(set) {
		return nil, fmt.Errorf("%w: not one of the files is what was applied under its version", ErrForeign)
	}
	s.steps, err = c(s.ledger)
	if err != nil || len(s.steps) == 0 && !s.exposed {
		return nil, err
	}
	err = s.persist(func() (string, bool, error) { return "", true, s.ensureLedger() })
	if err != nil {
		return nil, err
	}
	err = s.persist(func() (string, bool, error) {
		err := s.migrate()
		if err == nil || len(s.steps) == 0 {
			return "", false, err
		}
		f := s.steps[0]
		return f.Name, f.section().transaction, f.wrap(err)
	})
	return s.done, err
}

// persist does again what lost a contest for locks, Config.LockRetries times for each name that it goes by, if it may be done again.
func (s *session) persist(do func() (name string, again bool, err error)) error {
	lost := ""
	for try := 1; ; try++ {
		name, again, err := do()
		if err == nil {
			return nil
		}
		if name != lost {
			lost, try = name, 1
		}
		if !again || !passing(err) || s.conn.IsClosed() || try > s.cfg.LockRetries {
			return err
		}
		s.log.WarnContext(s.ctx, "lost a contest for locks; trying again", slog.String("file", name), slog.Int("try", try), slog.Any("error", err))
		if s.sleep(jitter(s.cfg.LockTimeout)) != nil {
			return err
		}
	}
}

// wrap makes an *Error that names the file, of errors that belong to the file but to none of its statements.
func (f *file) wrap(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{File: f.Name, Err: err}
}

// name is what people call the target.
func (t Target) name() string { return cmp.Or(t.Name, t.Schema) }

// wrap makes an *Error that names the target.
func (t Target) wrap(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Err: err}
	}
	e.Target, e.Schema, e.Err = t.Name, t.Schema, withContext(ctx, e.Err)
	return e
}

// validate holds the names to the grammar of a tenant's placement, which needs no quoting anywhere.
func (t Target) validate() error {
	if t.Conn == nil {
		return errors.New("target without Conn")
	}
	for _, name := range []string{t.Schema, cmp.Or(t.ExtensionSchema, t.Schema)} {
		p := tenant.Placement{Strategy: tenant.SchemaStrategy, Schema: name, Role: "unused"}
		if err := p.Validate(); err != nil {
			return fmt.Errorf("target: %w", err)
		}
	}
	return nil
}
