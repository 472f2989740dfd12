package pgserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/internal/daemon"
	"github.com/leasehold-go/leasehold/internal/scram"
)

const (
	// connectTimeout bounds one attempt. A server that recovers answers at once that it is not ready yet.
	connectTimeout = 5 * time.Second

	sqlstateCannotConnectNow   = "57P03"
	sqlstateInvalidPassword    = "28P01"
	sqlstateInvalidAuth        = "28000"
	sqlstateTooManyConnections = "53300"
)

var errPassword = errors.New("the server does not take the password that is kept beside its data")

// awaitReady connects as the superuser as soon as the server lets it. It gives up when ctx ends, when the server ends, or when
// the answer will not change by waiting.
func awaitReady(ctx context.Context, p *daemon.Process, url string) (*pgx.Conn, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		conn, err := tryConnect(ctx, url)
		if err == nil {
			return conn, nil
		}
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) {
			switch pgErr.Code {
			case sqlstateCannotConnectNow, sqlstateTooManyConnections:
			case sqlstateInvalidPassword, sqlstateInvalidAuth:
				return nil, errPassword
			default:
				return nil, err
			}
		}
		select {
		case <-p.Done():
			if err := p.Err(); err != nil {
				return nil, fmt.Errorf("ended before it was ready: %w", err)
			}
			return nil, errors.New("ended before it was ready")
		case <-ctx.Done():
			return nil, fmt.Errorf("not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func tryConnect(ctx context.Context, url string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return pgx.Connect(ctx, url)
}

// provision creates the administrator's login and its database if they are missing, and returns the server's version. PUBLIC has
// no CREATE in the schema public of any database that a server of MinMajor or newer has made.
func provision(ctx context.Context, conn *pgx.Conn, password string) (version string, err error) {
	var login, database bool
	err = conn.QueryRow(ctx, `
		SELECT current_setting('server_version'),
		       EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
		       EXISTS (SELECT FROM pg_database WHERE datname = $2)`,
		Administrator, Database).Scan(&version, &login, &database)
	if err != nil {
		return "", fmt.Errorf("pgserver: %w", err)
	}
	if !login {
		verifier, err := scram.Verifier(password)
		if err != nil {
			return "", fmt.Errorf("pgserver: %w", err)
		}
		// Not even the verifier is for the log, whatever the settings say about statements.
		for _, sql := range []string{
			`SET log_statement = 'none'`,
			`SET log_min_duration_statement = -1`,
			`SET log_min_error_statement = 'panic'`,
			`CREATE ROLE ` + Administrator + ` LOGIN CREATEROLE CREATEDB PASSWORD '` + verifier + `'`,
			`RESET ALL`,
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return "", fmt.Errorf("pgserver: create the login %s: %w", Administrator, err)
			}
		}
	}
	if !database {
		if _, err := conn.Exec(ctx, `CREATE DATABASE `+Database+` OWNER `+Administrator); err != nil {
			return "", fmt.Errorf("pgserver: create the database %s: %w", Database, err)
		}
	}
	return version, nil
}
