package cli

import (
	"context"
	"fmt"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/config"
)

// serveCmd is leasehold serve.
type serveCmd struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`
	config.Listen   `group:"Listen"`
	config.Web      `group:"Hosts"`
	migrationsFlag

	MaxConns int `name:"max-conns" env:"LEASEHOLD_MAX_CONNS" placeholder:"N" help:"Connections for the queries of tenants that share a database, for each cluster. Defaults to 4 for each CPU."`
	// MaxDatabaseConns are on top of those.
	MaxDatabaseConns int `name:"max-database-conns" env:"LEASEHOLD_MAX_DATABASE_CONNS" placeholder:"N" help:"Connections to databases of tenants' own, for each cluster, all databases together. Defaults to as many as --max-conns."`
	Spares           int `name:"spares" env:"LEASEHOLD_SPARES" default:"4" placeholder:"N" help:"Schemas kept ready for the next sign-ups (${default}); 0 removes those that there are."`
}

// Run serves until ctx ends.
func (c *serveCmd) Run(ctx context.Context, r *runner) error {
	conn, err := c.ConnConfig()
	if err != nil {
		return err
	}
	secret, err := keysOf(c.Secret)
	if err != nil {
		return err
	}
	m, err := c.migrator(migrate.Config{Logger: r.logger})
	if err != nil {
		return err
	}
	if c.Spares < 0 {
		return &config.Error{Setting: "LEASEHOLD_SPARES", Err: fmt.Errorf("is %d", c.Spares), Hint: "write 0 or more"}
	}
	if err := checkWeb(c.Web); err != nil {
		return err
	}
	l, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer l.close()
	s, err := newStack(ctx, stackConfig{
		conn: conn, keys: secret, migrator: m, spares: c.Spares, web: c.Web, maxConns: c.MaxConns, maxDatabaseConns: c.MaxDatabaseConns, logger: r.logger,
	}, l)
	if err != nil {
		return err
	}
	defer s.close()
	if swept, err := s.dir.Sweep(ctx); err != nil {
		r.logger.WarnContext(ctx, "tenants that were never finished could not be cleared away", "error", err)
	} else if swept > 0 {
		r.logger.InfoContext(ctx, "cleared away tenants that were never finished", "count", swept)
	}
	s.recoverMoves(ctx)
	r.logger.InfoContext(ctx, "serving", "url", s.apex, "listen", l.public.Addr().String(), "admin", fmt.Sprintf("http://%s/readyz", l.admin.Addr()))
	return s.serve(ctx, l)
}
