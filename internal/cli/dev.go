package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/app"
	"github.com/leasehold-go/leasehold/internal/config"
	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// devCmd is leasehold dev.
type devCmd struct {
	config.Listen `group:"Listen"`
	config.Web    `group:"Hosts"`
	migrationsFlag

	Data string `default:".leasehold" placeholder:"DIR" help:"The folder that holds the data (${default})."`
	Demo bool   `default:"true" negatable:"" help:"Create the demo companies acme and globex (on unless --no-demo)."`
}

// devSpares is how many spares dev keeps: one person signs up one company at a time. It is made when everything serves already.
const devSpares = 1

// stopTimeout is how long the database gets to stop in order.
const stopTimeout = 20 * time.Second

// demos are the companies that a newcomer finds.
var demos = []directory.NewTenant{
	{Company: "Acme Tools", ContactName: "Ada Acme", ContactEmail: "ada@acme.example", Subdomain: "acme"},
	{Company: "Globex Shipping", ContactName: "Gus Globex", ContactEmail: "gus@globex.example", Subdomain: "globex"},
}

// Run starts everything, serves until ctx ends, and stops everything.
func (c *devCmd) Run(ctx context.Context, r *runner) (err error) {
	logger := r.quiet(ctx)
	m, err := c.migrator(migrate.Config{Logger: logger})
	if err != nil {
		return err
	}
	if err := checkWeb(c.Web); err != nil {
		return err
	}
	l, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer l.close()
	server, err := pgserver.Start(ctx, pgserver.Config{DataDir: c.Data, Logger: logger})
	if ctx.Err() != nil && server == nil {
		return nil // interrupted while starting
	}
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, server.Stop(stopCtx))
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-server.Done():
			cancel(fmt.Errorf("PostgreSQL stopped by itself — its log is %s", server.LogFile()))
		case <-ctx.Done():
		}
	}()
	err = c.serve(ctx, r, m, l, server, logger)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		if errors.Is(cause, context.Canceled) {
			return nil // interrupted while starting
		}
		return cause
	}
	return err
}

// serve prepares the database and serves.
func (c *devCmd) serve(ctx context.Context, r *runner, m *migrate.Migrator, l *listeners, server *pgserver.Server, logger *slog.Logger) error {
	url := server.URL(pgserver.Administrator, pgserver.Database)
	conn, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	secret, err := c.secret()
	if err != nil {
		return err
	}
	if _, err := directory.Migrate(ctx, directory.Config{ConnConfig: conn, Logger: logger}); err != nil {
		return err
	}
	s, err := newStack(ctx, stackConfig{
		conn: conn, keys: keys{current: secret}, ownsLogin: true, migrator: m, spares: devSpares, web: c.Web, logger: logger,
	}, l)
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.dir.Sweep(ctx); err != nil {
		return err
	}
	s.recoverMoves(ctx)
	if err := migrateAll(ctx, r, m, s.dir); err != nil {
		return err
	}
	if c.Demo {
		for _, demo := range demos {
			if err := ensureDemo(ctx, s, demo); err != nil {
				return fmt.Errorf("demo company %s: %w", demo.Subdomain, err)
			}
		}
	}
	if err := c.writeEnv(url, secret); err != nil {
		return err
	}
	if err := c.greet(ctx, r, s, l, server, url); err != nil {
		return err
	}
	return s.serve(ctx, l)
}

// migrateAll brings the tenants of earlier runs up to date. Those that fail stay as they are and are served, so that their
// data can be looked at and mended.
func migrateAll(ctx context.Context, r *runner, m *migrate.Migrator, dir *directory.Directory) error {
	targets, err := dir.Targets(ctx)
	if err != nil {
		return err
	}
	_, err = m.Up(ctx, targets, migrate.Options{})
	if failed := (*migrate.FailedError)(nil); errors.As(err, &failed) {
		r.showFailed(failed, "run: leasehold migrate up; until then they are served as they are")
		return nil
	}
	return err
}

func ensureDemo(ctx context.Context, s *stack, demo directory.NewTenant) error {
	t, err := s.dir.BySlug(ctx, tenant.Slug(demo.Subdomain))
	if errors.Is(err, tenant.ErrNotFound) {
		t, err = s.dir.Create(ctx, demo)
	}
	if err != nil || t.Status != tenant.Active {
		return err
	}
	return app.Seed(tenant.NewContext(ctx, t), s.db, time.Now())
}

// secret returns the data folder's own key, made at the first start.
func (c *devCmd) secret() ([]byte, error) {
	file := filepath.Join(c.Data, "secret")
	key, err := os.ReadFile(file)
	if err == nil {
		return key, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	key = []byte(hex.EncodeToString(random(32)))
	return key, writeWhole(file, key)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// writeEnv leaves the settings of this database for other commands.
func (c *devCmd) writeEnv(url string, secret []byte) error {
	content := fmt.Sprintf("export LEASEHOLD_DATABASE_URL='%s'\nexport LEASEHOLD_SECRET_KEY='%s'\n", url, secret)
	if c.Migrations != "" {
		dir, err := filepath.Abs(c.Migrations)
		if err != nil {
			return err
		}
		content += fmt.Sprintf("export LEASEHOLD_MIGRATIONS='%s'\n", strings.ReplaceAll(dir, "'", `'\''`))
	}
	return writeWhole(filepath.Join(c.Data, "env"), []byte(content))
}

// writeWhole writes a file that only its owner can read, wholly or not at all.
func writeWhole(file string, content []byte) error {
	part := file + ".part"
	if err := os.WriteFile(part, content, 0o600); err != nil {
		return err
	}
	return os.Rename(part, file)
}

// devView is what dev prints when it is ready.
type devView struct {
	URL       string            `json:"url"`
	Admin     string            `json:"admin"`
	Tenants   map[string]string `json:"tenants"`
	Database  string            `json:"database"`
	Data      string            `json:"data"`
	EnvFile   string            `json:"env_file"`
	PGVersion string            `json:"postgresql"`
}

// greet says where to look and how to stop.
func (c *devCmd) greet(ctx context.Context, r *runner, s *stack, l *listeners, server *pgserver.Server, url string) error {
	_, tenantURL, err := c.URLs(l.public.Addr())
	if err != nil {
		return err
	}
	tenants, err := s.dir.List(ctx, directory.ListOptions{Status: tenant.Active, Limit: 10})
	if err != nil {
		return err
	}
	view := devView{
		URL: s.apex, Admin: "http://" + l.admin.Addr().String(), Tenants: map[string]string{}, Database: url, Data: c.Data,
		EnvFile: filepath.Join(c.Data, "env"), PGVersion: strings.Fields(server.Version())[0],
	}
	var b strings.Builder
	line := func(label, value string) { _, _ = fmt.Fprintf(&b, "  %-10s %s\n", label, value) }
	_, _ = fmt.Fprintf(&b, "Leasehold is ready, with PostgreSQL %s in %s\n\n", view.PGVersion, c.Data)
	line("sign up", view.URL)
	for _, t := range tenants {
		view.Tenants[string(t.Slug)] = tenantURL(t.Slug)
		line(string(t.Slug), tenantURL(t.Slug))
	}
	line("health", view.Admin+"/readyz")
	line("database", "psql '"+url+"'")
	line("settings", ". "+shellPath(view.EnvFile)+"   (in the shell where you run other leasehold commands)")
	b.WriteString("\nPress Ctrl-C to stop; the data stays.\n")
	return r.print(view, func(w io.Writer) { _, _ = io.WriteString(w, b.String()) })
}

// shellPath spells a path so that the shell's dot command does not search for it.
func shellPath(path string) string {
	if filepath.IsAbs(path) || strings.HasPrefix(path, "../") {
		return path
	}
	return "./" + path
}
