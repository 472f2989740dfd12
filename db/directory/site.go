package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// administrators remembers how to connect to clusters as their administrators. It is safe for concurrent use.
type administrators struct {
	mu    sync.Mutex
	known map[string]administrator // by the cluster's name; guarded by mu
	down  map[string]time.Time     // when the cluster could not be reached; guarded by mu
}

func newAdministrators() *administrators {
	return &administrators{known: map[string]administrator{}, down: map[string]time.Time{}}
}

// avoidTime is how long a cluster that could not be reached is the last choice for new tenants: each try may take some seconds.
const avoidTime = 30 * time.Second

func (a *administrators) avoid(cluster string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down[cluster] = time.Now()
}

func (a *administrators) avoided(cluster string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.down[cluster]
	return ok && time.Since(at) < avoidTime
}

type administrator struct {
	row  controlsql.Cluster // as it was read last
	conn *pgx.ConnConfig    // made of the row's URL; nil if that was not opened yet
}

// readCluster reads a cluster's row; while the registry cannot be reached, what was read last holds.
func (d *Directory) readCluster(ctx context.Context, cluster string) (controlsql.Cluster, error) {
	readCtx, cancel := context.WithTimeout(ctx, d.cfg.ReadTimeout)
	defer cancel()
	row, err := d.queries.GetCluster(readCtx, cluster)
	switch {
	case err == nil:
		d.administrators.set(row, nil)
		return row, nil
	case errors.Is(err, pgx.ErrNoRows):
		return row, fmt.Errorf("%w: %q", ErrNoCluster, cluster)
	case ctx.Err() == nil && sqlState(err) == "":
		if last := d.administrators.get(cluster); last.row.Name != "" {
			return last.row, nil
		}
	}
	return row, fmt.Errorf("directory: read the cluster %q: %w", cluster, err)
}

func (a *administrators) get(cluster string) administrator {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known[cluster]
}

// set notes what was read, and what was made of it: nil keeps what was made of the same URL before.
func (a *administrators) set(row controlsql.Cluster, conn *pgx.ConnConfig) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := a.known[row.Name]; conn == nil && bytes.Equal(last.row.EncryptedUrl, row.EncryptedUrl) {
		conn = last.conn
	}
	a.known[row.Name] = administrator{row, conn}
}

// administrator returns how to connect to a cluster as its administrator, to the database for tenants that are housed by schema.
// It reads the registry, since the URL may have been changed; while that cannot be reached, what it read last holds. The result
// is shared and must not be changed.
func (d *Directory) administrator(ctx context.Context, cluster string) (*pgx.ConnConfig, error) {
	if cluster == tenant.DefaultCluster {
		return d.cfg.ConnConfig, nil
	}
	row, err := d.readCluster(ctx, cluster)
	if err != nil {
		return nil, err
	}
	return d.administratorOf(row)
}

// administratorOf is administrator for a row that has been read.
func (d *Directory) administratorOf(row controlsql.Cluster) (*pgx.ConnConfig, error) {
	if row.Name == tenant.DefaultCluster {
		return d.cfg.ConnConfig, nil
	}
	if last := d.administrators.get(row.Name); last.conn != nil && bytes.Equal(last.row.EncryptedUrl, row.EncryptedUrl) {
		return last.conn, nil
	}
	url, err := d.sealer.open(ownerOfURL(row.Name), row.EncryptedUrl)
	if err != nil {
		return nil, err
	}
	conn, err := parseURL(string(url))
	if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", row.Name, err)
	}
	d.administrators.set(row, conn)
	return conn, nil
}

// connectTo connects to a cluster's own database as its administrator. A server that does not answer is given up in time.
func (d *Directory) connectTo(ctx context.Context, cluster string) (*session, error) {
	admin, err := d.administrator(ctx, cluster)
	if err != nil {
		return nil, err
	}
	s, err := dialAdministrator(ctx, admin)
	if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", cluster, err)
	}
	return s, nil
}

// inDatabase returns the same login in another database, or the given one for "".
func inDatabase(cc *pgx.ConnConfig, database string) *pgx.ConnConfig {
	if database == "" || database == cc.Database {
		return cc
	}
	cc = cc.Copy()
	cc.Database = database
	return cc
}

func dialAdministrator(ctx context.Context, cc *pgx.ConnConfig) (*session, error) {
	cc = cc.Copy()
	cc.RuntimeParams["search_path"] = "pg_catalog"
	cc.RuntimeParams["default_transaction_isolation"] = "read committed"
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn, q: controlsql.New(conn)}, nil
}

// unreachable reports whether an error says that a server, or a connection to it, cannot be had.
func unreachable(err error) bool {
	_, ok := errors.AsType[*pgconn.ConnectError](err)
	return ok
}

// houseTime bounds the wait for somebody else who is at work on the same tenant's house. Whoever has died there is let go by the
// server when it has finished the statement in hand.
const houseTime = cleanupTime / 2

// openSite connects to the cluster of a tenant that is not housed in the registry's own database, and takes the lock under which
// its house there is built, torn down or given another password. What the registry says of the tenant is to be read again after
// that: a creator whose lock in the registry is gone may have been overtaken.
func (d *Directory) openSite(ctx context.Context, cluster string, id tenant.ID) (*session, error) {
	s, err := d.connectTo(ctx, cluster)
	if err != nil {
		return nil, err
	}
	lockCtx, cancel := context.WithTimeout(ctx, houseTime)
	defer cancel()
	if err := s.lockInTurn(lockCtx, houseLock(id)); err != nil {
		s.close()
		return nil, fmt.Errorf("cluster %q: somebody else is at work on the tenant %s: %w", cluster, id, err)
	}
	return s, nil
}

// houseLock is the key of the lock in the database of a tenant's cluster that openSite takes.
func houseLock(id tenant.ID) int64 { return lockKey("house " + id.String()) }

// atHome reports whether a tenant lives in the registry's own database, so that one transaction can change both.
func atHome(row controlsql.Tenant) bool {
	return row.Cluster == tenant.DefaultCluster && row.Strategy == tenant.SchemaStrategy
}

// databaseOf is the database to connect to for a tenant: "" means that of its cluster, which somebody may have renamed.
func databaseOf(row controlsql.Tenant) string {
	if row.Strategy == tenant.DatabaseStrategy {
		return row.DatabaseName
	}
	return ""
}
