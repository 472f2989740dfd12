package directory

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// session is a connection to the registry outside the pool, which holds advisory locks: when its process or its connection
// dies, the server frees them. It is used by one goroutine.
type session struct {
	conn *pgx.Conn
	q    *controlsql.Queries
}

func (d *Directory) openSession(ctx context.Context) (*session, error) {
	conn, err := pgx.ConnectConfig(ctx, d.cfg.registryConn())
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return &session{conn: conn, q: controlsql.New(conn)}, nil
}

// regain returns a session that holds the lock: the given one or, if its connection is gone, a new one, as soon as the server has
// noticed. The old one need not be closed then.
func (d *Directory) regain(ctx context.Context, s *session, key int64) (*session, error) {
	if !s.conn.IsClosed() {
		return s, nil
	}
	fresh, err := d.openSession(ctx)
	if err != nil {
		return s, err
	}
	if err := fresh.q.Lock(ctx, key); err != nil {
		fresh.close()
		return s, err
	}
	return fresh, nil
}

// turnPoll is about how often a lock that may be held for long is asked for.
const turnPoll = 100 * time.Millisecond

// lockInTurn takes a lock that may be held while something is migrated. It asks and asks again: a statement that waits on the
// server holds a snapshot, for whose end CREATE INDEX CONCURRENTLY waits.
func (s *session) lockInTurn(ctx context.Context, key int64) error {
	for {
		if got, err := s.q.TryLock(ctx, key); got || err != nil {
			return err
		}
		sleep(ctx, jitter(turnPoll))
	}
}

// close frees the locks before it closes, because the server takes its time to notice that a connection is gone.
func (s *session) close() {
	if !s.conn.IsClosed() {
		ctx, cancel := context.WithTimeout(context.Background(), answerTime)
		defer cancel()
		_ = s.q.UnlockAll(ctx) // if it fails, the end of the connection does the same, a little later
	}
	closeConn(s.conn)
}

// inTx runs f in a transaction that is committed if f returns nil.
func (s *session) inTx(ctx context.Context, f func(q *controlsql.Queries, tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error { return f(s.q.WithTx(tx), tx) })
}

// privilegesLock is the key of the lock under which rights on the database are changed: PostgreSQL does not let two
// transactions change those of one object at once.
var privilegesLock = lockKey("privileges")

// placementLock is the key of the lock under which the places that clusters have left are counted and taken. It is taken before
// reservationLock.
var placementLock = lockKey("placements")

// reservationLock is the key of the lock under which the places that a runtime login has left are counted and taken.
var reservationLock = lockKey("reservations")

// fillLock is the key of the lock under which spares are made and kept up to date.
var fillLock = lockKey("spares")

// creationLock is the key of the lock that the creator of a tenant holds from before the tenant's row is there until it is
// active. A row that says provisioning and whose lock is free has lost its creator. A reference has such a lock until it is
// dropped, and whoever takes a spare holds it for the time of one transaction.
func creationLock(id tenant.ID) int64 { return lockKey("create " + id.String()) }

// lockKey maps a name to the key of an advisory lock. Such locks belong to one database.
func lockKey(name string) int64 {
	sum := sha256.Sum256([]byte("leasehold directory " + name))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}
