package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Session is a connection of one's own in one tenant, for what lives as long as a session of PostgreSQL: LISTEN, session
// advisory locks, SET, temporary tables. Every call on it is held to the tenant as any other call is. It is opened by Acquire
// and closed by Release, so that nothing of it is ever found by another tenant. It is not safe for concurrent use.
//
// Channels and advisory locks belong to the whole database: name them with tenant.ID's Channel and LockKey. A temporary table
// needs the privilege TEMPORARY on the database, which tenants' roles do not have unless it is granted to them.
type Session struct {
	scope    *scope
	lease    *lease
	unpin    func()
	released bool
}

// Acquire opens a session in the tenant of ctx, or of the bound handle. It takes the time to connect, and counts against
// Config.MaxSessions and the tenant's share of them, Config.MaxSessionsPerTenant: when those are in use it waits as other calls do,
// and returns ErrBusy. Behind a transaction pooler it returns ErrRefused, because there are no sessions there. Opening takes at most
// 30 seconds, what Config.Login takes included; its panic is an error. The session must be given back with Release.
func (h Handle) Acquire(ctx context.Context) (*Session, error) {
	s, err := h.scope(ctx)
	if err != nil {
		return nil, err
	}
	e, server := h.e, s.load.server
	if err := server.sessions(); err != nil {
		return nil, err
	}
	unpin, err := e.pin(ctx, s.tenant.ID)
	if err != nil {
		return nil, err
	}
	conn, err := e.dialSafely(ctx, server, s.load.door)
	if err == nil {
		if err = server.sessions(); err != nil { // a pooler was found just now
			conn.close()
		}
	}
	if err != nil {
		unpin()
		return nil, becauseOf(ctx, err)
	}
	return &Session{scope: s, unpin: unpin, lease: &lease{e: e, load: s.load, session: conn, pinned: true}}, nil
}

// sessions returns an error where there are none.
func (sv *server) sessions() error {
	if sv.pooled.Load() {
		return fmt.Errorf("%w: Acquire: a transaction pooler stands before PostgreSQL, and what lives in a session (LISTEN, session "+
			"advisory locks, SET, temporary tables) is lost behind it; connect directly for that", ErrRefused)
	}
	return nil
}

// becauseOf adds the context's end to an error of dialling. The network has a clock of its own for the deadline, and says so in
// its own way, maybe before the context does.
func becauseOf(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if deadline, ok := ctx.Deadline(); cause == nil && ok && !time.Now().Before(deadline) {
		cause = context.DeadlineExceeded
	}
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// Release closes the session: its locks are freed, its temporary tables dropped, a transaction that is open is rolled back. It
// may be called again.
func (s *Session) Release() {
	if s.released {
		return
	}
	s.released = true
	if s.lease.idle() {
		s.lease.e.working.Go(s.lease.close)
	} else { // rows or a transaction may still be used: nothing else may touch the connection
		s.lease.abort()
	}
	s.unpin()
}

// usable returns nil if a statement may be sent under ctx.
func (s *Session) usable(ctx context.Context) error {
	if s.released {
		return fmt.Errorf("%w: the session was released", ErrClosed)
	}
	if t, err := tenant.FromContext(ctx); err == nil && t.ID != s.scope.tenant.ID {
		return fmt.Errorf("%w: %s and %s", tenant.ErrMismatch, t.Slug, s.scope.tenant.Slug)
	}
	if s.lease.flying {
		return errConnBusy
	}
	if !s.lease.pg.IsClosed() && s.lease.pg.TxStatus() != txIdle {
		return fmt.Errorf("%w: a transaction is open on the session; end it first, or use it", ErrRefused)
	}
	return nil
}

func (s *Session) call(ctx context.Context) call {
	return call{ctx: s.lease.e.tracer.context(ctx, s.scope.tenant), scope: s.scope, lease: s.lease}
}

// Exec is Handle.Exec on the session.
func (s *Session) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return asTag(s.query(ctx, sql, args))
}

// Query is Handle.Query on the session. The rows must be closed before the next statement.
func (s *Session) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return asRows(s.query(ctx, sql, args))
}

// QueryRow is Handle.QueryRow on the session.
func (s *Session) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return asRow(s.query(ctx, sql, args))
}

func (s *Session) query(ctx context.Context, sql string, args []any) (*Rows, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	return s.call(ctx).query(sql, args)
}

// SendBatch is Handle.SendBatch on the session.
func (s *Session) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := s.usable(ctx); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return s.call(ctx).sendBatch(b)
}

// CopyFrom is Handle.CopyFrom on the session.
func (s *Session) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return copyFrom(ctx, s, table, columns, rows)
}

// Begin is BeginTx with the server's default modes.
func (s *Session) Begin(ctx context.Context) (pgx.Tx, error) { return s.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx is Handle.BeginTx on the session. The session can do nothing else until the transaction has ended.
func (s *Session) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	if err := checkOptions(opts); err != nil {
		return nil, err
	}
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // pgx would close the connection
		return nil, fmt.Errorf("context already done: %w", err)
	}
	return begin(ctx, s.scope, s.lease, opts)
}

// WaitForNotification waits until a notification arrives on a channel that the session listens to, or ctx ends. After the end
// of ctx the session can be used on.
func (s *Session) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	if s.lease.flying {
		return nil, errConnBusy
	}
	return s.lease.conn.WaitForNotification(ctx)
}
