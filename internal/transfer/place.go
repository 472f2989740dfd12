package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
)

const (
	// connectTimeout bounds a connection attempt whose configuration has no bound.
	connectTimeout = 15 * time.Second
	// closeTimeout bounds what is still said to a server when the work, or the context, has ended.
	closeTimeout = 5 * time.Second
)

// Place is where a tenant lives, or is to live.
type Place struct {
	// Admin says how to connect to the database as the role that owns the schema. It is copied, not changed.
	Admin *pgx.ConnConfig
	// Schema and Role are the names of the tenant's schema and of its role: at most 61 of a-z, 0-9 and _, the schema's beginning with t_.
	Schema, Role string
	// Logins are those that may take the role. A move takes the role from those at the source, and gives it to those at the target.
	Logins []string
	// ExtensionSchema is the schema of shared extensions, if there is one.
	ExtensionSchema string
}

const schemaPrefix = "t_"

// CaptureSchema is the name of the schema in which changes are noted while a schema is moved.
func CaptureSchema(schema string) string { return "m_" + strings.TrimPrefix(schema, schemaPrefix) }

// OldSchema is what a schema is called at the source after a move.
func OldSchema(schema string) string { return "o_" + strings.TrimPrefix(schema, schemaPrefix) }

// FenceSchema is what CaptureSchema is called after a move. The triggers look for it under its first name, and so refuse all changes.
func FenceSchema(schema string) string { return "f_" + strings.TrimPrefix(schema, schemaPrefix) }

func (p Place) validate() error {
	if p.Admin == nil {
		return errors.New("transfer: place without Admin")
	}
	if !strings.HasPrefix(p.Schema, schemaPrefix) {
		return fmt.Errorf("transfer: schema %q does not begin with %s", p.Schema, schemaPrefix)
	}
	names := tenant.Placement{Strategy: tenant.SchemaStrategy, Schema: p.Schema, Role: p.Role}
	if err := names.Validate(); err != nil {
		return fmt.Errorf("transfer: %w", err)
	}
	return nil
}

// session is one connection of the administrator at a place.
type session struct {
	*pgx.Conn
	place Place
}

// settings make the same value the same text wherever it is read. A row that a policy would hide is an error. What is committed stays,
// whatever the server does for others: one side relies on what the other has done.
var settings = map[string]string{
	"client_encoding": "UTF8", "datestyle": "ISO, MDY", "intervalstyle": "postgres", "extra_float_digits": "3", "timezone": "UTC",
	"bytea_output": "hex", "xmloption": "content", "lc_monetary": "C", "row_security": "off", "check_function_bodies": "off",
	"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "idle_session_timeout": "0",
	"application_name":            "leasehold transfer",
	"synchronous_commit":          "on",
	"standard_conforming_strings": "on",
}

// connect opens a session, in which names without a schema are those of the tenant.
func (p Place) connect(ctx context.Context) (*session, error) {
	c := p.Admin.Copy()
	c.DefaultQueryExecMode = pgx.QueryExecModeExec // definitions change while it lasts
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	for name, value := range settings {
		c.RuntimeParams[name] = value
	}
	c.RuntimeParams["search_path"] = p.path()
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	// When the context ends the server is told to stop, so that nothing goes on unseen.
	c.BuildContextWatcherHandler = func(pc *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: pc, DeadlineDelay: closeTimeout}
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	return &session{conn, p}, nil
}

// path is the search_path on which the tenant's own names come first.
func (p Place) path() string {
	if p.ExtensionSchema == "" {
		return quote(p.Schema) + ", pg_temp"
	}
	return quote(p.Schema) + ", " + quote(p.ExtensionSchema) + ", pg_temp"
}

// close ends the session. When it returns, the server has been told, and has given back the session's locks if it is well.
func (s *session) close() {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if !s.IsClosed() && s.PgConn().TxStatus() == 'I' {
		// The end of the session frees the locks too, but only when the server has come to it.
		_, _ = s.Exec(ctx, `select pg_advisory_unlock_all()`)
	}
	_ = s.Close(ctx)
	select {
	case <-s.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}

// run sends statements that take no parameters as one simple query.
func (s *session) run(ctx context.Context, statements ...string) error {
	_, err := s.PgConn().Exec(ctx, strings.Join(statements, ";\n")).ReadAll()
	return err
}

// seize takes the lock that keeps migrations, exports and moves of the schema apart, and waits for it no longer than seizePatience.
func (s *session) seize(ctx context.Context) error {
	var got bool
	found := false
	err := poll(ctx, seizePatience, func() (bool, error) {
		err := s.QueryRow(ctx, `select pg_try_advisory_lock($1), exists (select from pg_catalog.pg_namespace where nspname = any($2))`,
			migrate.LockKey(s.place.Schema), []string{s.place.Schema, OldSchema(s.place.Schema)}).Scan(&got, &found)
		return got, err
	})
	switch {
	case err != nil:
		return err
	case !got:
		return fmt.Errorf("%w: schema %q", ErrBusy, s.place.Schema)
	case !found:
		return fmt.Errorf("%w: %q in database %q", migrate.ErrSchemaMissing, s.place.Schema, s.Config().Database)
	}
	return nil
}

// pollEvery is the pause between two looks at what others hold.
const pollEvery = 20 * time.Millisecond

// poll asks until the answer is yes, or for as long as patience.
func poll(ctx context.Context, patience time.Duration, ask func() (bool, error)) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return nil
		case <-tick.C:
		}
	}
}

// wait waits, or until there is no reason to.
func wait(ctx context.Context, d time.Duration) error {
	return poll(ctx, d, func() (bool, error) { return false, nil })
}

// hasSchema reports whether there is a schema of that name.
func (s *session) hasSchema(ctx context.Context, name string) (yes bool, err error) {
	err = s.QueryRow(ctx, `select exists (select from pg_catalog.pg_namespace where nspname = $1)`, name).Scan(&yes)
	return yes, err
}

// mustBeEmpty checks that there is a schema with nothing in it.
func (s *session) mustBeEmpty(ctx context.Context) error {
	var there, empty bool
	err := s.QueryRow(ctx, `select exists (select from pg_catalog.pg_namespace where nspname = $1),
		not exists (select from pg_catalog.pg_depend where refclassid = 'pg_namespace'::regclass
			and refobjid = (select oid from pg_catalog.pg_namespace where nspname = $1) and classid <> 'pg_default_acl'::regclass)`,
		s.place.Schema).Scan(&there, &empty)
	switch {
	case err != nil:
		return err
	case !there:
		return fmt.Errorf("%w: %q in database %q", migrate.ErrSchemaMissing, s.place.Schema, s.Config().Database)
	case !empty:
		return fmt.Errorf("%w: %q in database %q", ErrNotEmpty, s.place.Schema, s.Config().Database)
	}
	return nil
}

// quote quotes one name.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// quoteAll quotes names for a list.
func quoteAll(names []string, prefix string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = prefix + quote(name)
	}
	return strings.Join(quoted, ", ")
}
