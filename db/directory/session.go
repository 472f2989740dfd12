package directory

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

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

// reservationLock is the key of the lock under which the places that a runtime login has left are counted and taken.
var reservationLock = lockKey("reservations")

// creationLock is the key of the lock that the creator of a tenant holds from before the tenant's row is there until it is
// active. A row that says provisioning and whose lock is free has lost its creator.
func creationLock(id tenant.ID) int64 { return lockKey("create " + id.String()) }

// lockKey maps a name to the key of an advisory lock. Such locks belong to one database.
func lockKey(name string) int64 {
	sum := sha256.Sum256([]byte("leasehold directory " + name))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}
