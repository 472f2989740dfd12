package directory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// parsePooler reads a pooler's URL. Its own login would be shown by Clusters, and would not be used.
func parsePooler(text string) (*pgx.ConnConfig, error) {
	const form = "write it as postgres://host:port, without login or database; options such as ?sslmode=verify-full may follow"
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "postgres" && u.Scheme != "postgresql", u.Hostname() == "":
		return nil, fmt.Errorf("%w: the pooler's URL cannot be read; %s", ErrClusterUnfit, form)
	case u.User != nil, u.Path != "" && u.Path != "/", u.Query().Has("user"), u.Query().Has("password"):
		return nil, fmt.Errorf("%w: the pooler's URL names a login or a database: each tenant has its own; %s", ErrClusterUnfit, form)
	}
	cc, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the pooler's URL: %w; %s", ErrClusterUnfit, err, form)
	}
	return cc, nil
}

// poolerAddress is a pooler as it is shown to people: host:port.
func poolerAddress(text *string) string {
	if text == nil {
		return ""
	}
	cc, err := parsePooler(*text)
	if err != nil {
		return *text
	}
	return net.JoinHostPort(cc.Host, strconv.Itoa(int(cc.Port)))
}

// forTenants leads what a tenant's login connects with through its cluster's pooler, if there is one.
func (d *Directory) forTenants(ctx context.Context, cluster string, direct *pgx.ConnConfig) (*pgx.ConnConfig, error) {
	row, err := d.readCluster(ctx, cluster)
	if err != nil || row.PoolerUrl == nil {
		return direct, err
	}
	pooler, err := parsePooler(*row.PoolerUrl)
	if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", cluster, err)
	}
	return through(pooler, direct), nil
}

// through returns the same login in the same database, by way of a pooler.
func through(pooler, direct *pgx.ConnConfig) *pgx.ConnConfig {
	cc := pooler.Copy()
	cc.User, cc.Password, cc.Database = direct.User, direct.Password, direct.Database
	return cc
}

// changePooler makes sure that a pooler leads to the cluster, and writes it down.
func (d *Directory) changePooler(ctx context.Context, row *controlsql.Cluster, text string) error {
	if text == "" {
		row.PoolerUrl = nil
		return nil
	}
	pooler, err := parsePooler(text)
	if err != nil {
		return err
	}
	// A login of tenants, since that is who has to come through.
	direct, err := d.usableLogin(ctx, clusterLogin{row.Name, defaultLogin}, false)
	if err != nil {
		return err
	}
	err = d.checkPooler(ctx, pooler, direct)
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && row.Strategy == tenant.DatabaseStrategy {
		d.cfg.Logger.WarnContext(ctx, "the pooler does not let the runtime login in; so it must know the logins of the tenants' own databases",
			"cluster", row.Name, "login", direct.User, "error", refusal)
		err = nil
	}
	row.PoolerUrl = &text
	return err
}

// checkPooler compares the servers that a login reaches directly and through a pooler.
func (d *Directory) checkPooler(ctx context.Context, pooler, direct *pgx.ConnConfig) error {
	there, err := startedAt(ctx, through(pooler, direct))
	if err != nil {
		return fmt.Errorf("%w: connect through the pooler as %q: %w", ErrClusterUnfit, direct.User, err)
	}
	here, err := startedAt(ctx, direct)
	if err != nil {
		return err
	}
	if !here.Equal(there) {
		return fmt.Errorf("%w: the pooler leads to another server, or to a copy of it", ErrClusterUnfit)
	}
	return nil
}

// startedAt says when a server was started, which tells servers apart that are copies of each other.
func startedAt(ctx context.Context, cc *pgx.ConnConfig) (at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return at, err
	}
	defer closeConn(conn)
	err = conn.QueryRow(ctx, "SELECT pg_catalog.pg_postmaster_start_time()", pgx.QueryExecModeExec).Scan(&at)
	return at, err
}
