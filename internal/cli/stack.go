package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanthttp"
	"github.com/leasehold-go/leasehold/internal/app"
	"github.com/leasehold-go/leasehold/internal/config"
)

// migrationsFlag chooses the tenants' migration files.
type migrationsFlag struct {
	Migrations string `name:"migrations" env:"LEASEHOLD_MIGRATIONS" placeholder:"DIR" help:"The folder of the tenants' migrations. Defaults to those built into this program."`
}

// migrator returns the migrator of tenants.
func (f migrationsFlag) migrator(cfg migrate.Config) (*migrate.Migrator, error) {
	var fsys fs.FS = migrations.FS
	dir := "tenant"
	if f.Migrations != "" {
		fsys, dir = os.DirFS(f.Migrations), "."
	}
	set, err := migrate.Load(fsys, dir)
	switch {
	case f.Migrations != "" && errors.Is(err, fs.ErrNotExist):
		return nil, &config.Error{
			Setting: "LEASEHOLD_MIGRATIONS", Err: fmt.Errorf("there is no folder %s", f.Migrations), Hint: "name the one with the tenants' migrations",
		}
	case f.Migrations != "" && err != nil:
		return nil, fmt.Errorf("migrations in %s: %w", f.Migrations, err)
	case err != nil:
		return nil, err
	}
	return migrate.New(set, cfg), nil
}

// keys are the secret keys that a command was given.
type keys struct {
	current []byte
	old     [][]byte
}

// keysOf reads the keys of a command that needs one.
func keysOf(secret config.Secret) (k keys, err error) {
	if k.current, err = secret.Key(); err != nil {
		return k, err
	}
	k.old, err = secret.OldKeys()
	return k, err
}

// optionalKeysOf reads the keys of a command that needs one only where tenants live on another cluster than the default one.
func optionalKeysOf(secret config.Secret) (k keys, err error) {
	if k.current, err = secret.OptionalKey(); err != nil {
		return k, err
	}
	k.old, err = secret.OldKeys()
	return k, err
}

// openDirectory is openDirectory for commands that have to do with clusters or passwords.
func openDirectory(ctx context.Context, db config.Database, k keys, m *migrate.Migrator, logger *slog.Logger) (*directory.Directory, error) {
	cc, err := db.ConnConfig()
	if err != nil {
		return nil, err
	}
	return directory.Open(ctx, directory.Config{ConnConfig: cc, SecretKey: k.current, OldSecretKeys: k.old, Migrator: m, Logger: logger})
}

// checkWeb finds what is wrong with the settings of hosts before anything starts.
func checkWeb(web config.Web) error {
	if _, err := web.Proxies(); err != nil {
		return err
	}
	if _, _, err := web.URLs(nil); err != nil {
		return err
	}
	if _, err := tenanthttp.NewHosts(web.BaseDomain, nil); err != nil {
		return &config.Error{Setting: "LEASEHOLD_BASE_DOMAIN", Err: err}
	}
	return nil
}

// listeners are the two addresses of a server. They are opened first, so that a taken port is found before anything starts.
type listeners struct{ public, admin net.Listener }

func listen(ctx context.Context, cfg config.Listen) (*listeners, error) {
	var lc net.ListenConfig
	public, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, listenError(cfg.Listen, "LEASEHOLD_LISTEN", "--listen", err)
	}
	admin, err := lc.Listen(ctx, "tcp", cfg.AdminListen)
	if err != nil {
		_ = public.Close()
		return nil, listenError(cfg.AdminListen, "LEASEHOLD_ADMIN_LISTEN", "--admin-listen", err)
	}
	return &listeners{public: public, admin: admin}, nil
}

// close is for listeners that were not served.
func (l *listeners) close() {
	_ = l.public.Close()
	_ = l.admin.Close()
}

// stack is everything that serves requests, put together.
type stack struct {
	dir    *directory.Directory
	db     *tenantdb.DB
	apex   string
	public *http.Server
	admin  *http.Server
	logger *slog.Logger
}

// stackConfig says what a stack is made of.
type stackConfig struct {
	conn *pgx.ConnConfig // the administrator's
	keys keys
	// ownsLogin says that no other process uses the runtime login, so that another secret key locks nobody out.
	ownsLogin bool
	migrator  *migrate.Migrator
	spares    int
	web       config.Web
	maxConns  int
	// maxDatabaseConns bounds the connections to databases of tenants' own.
	maxDatabaseConns int
	logger           *slog.Logger
}

// newStack opens the registry and the tenants' database and builds the handlers for the listeners.
func newStack(ctx context.Context, cfg stackConfig, l *listeners) (_ *stack, err error) {
	proxies, err := cfg.web.Proxies()
	if err != nil {
		return nil, err
	}
	apex, tenantURL, err := cfg.web.URLs(l.public.Addr())
	if err != nil {
		return nil, err
	}
	s := &stack{apex: apex, logger: cfg.logger}
	s.dir, err = directory.Open(ctx, directory.Config{
		ConnConfig: cfg.conn, SecretKey: cfg.keys.current, OldSecretKeys: cfg.keys.old, Migrator: cfg.migrator, Spares: cfg.spares, Logger: cfg.logger,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	runtime, err := s.dir.RuntimeConn(ctx)
	if cfg.ownsLogin && errors.Is(err, directory.ErrSecretKey) {
		if err = s.dir.SetRuntimePassword(ctx); err == nil {
			runtime, err = s.dir.RuntimeConn(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	s.db, err = tenantdb.Open(ctx, tenantdb.Config{ConnConfig: runtime, Login: s.dir.LoginConn, Refresh: s.dir.Await, MaxConns: cfg.maxConns,
		MaxDatabaseConns: cfg.maxDatabaseConns, Logger: cfg.logger})
	if err != nil {
		return nil, err
	}
	handler, err := app.New(app.Config{Database: s.db, Signup: s.dir, PublicURL: tenantURL, Logger: cfg.logger})
	if err != nil {
		return nil, err
	}
	hosts, err := tenanthttp.New(s.dir, tenanthttp.Config{
		BaseDomains: cfg.web.BaseDomain, Domains: s.dir, TrustedProxies: proxies, Respond: app.Refuse, Logger: cfg.logger,
	})
	if err != nil {
		return nil, err
	}
	s.public = newServer(hosts.Handler(handler), cfg.logger)
	s.admin = newServer(app.AdminHandler(s.ready, cfg.logger), cfg.logger)
	return s, nil
}

// ready reports whether the registry answers and tenants' connections can be had.
func (s *stack) ready(ctx context.Context) error { return errors.Join(s.dir.Ping(ctx), s.db.Ping(ctx)) }

func (s *stack) close() {
	if s.db != nil {
		s.db.Close()
	}
	s.dir.Close()
}

// recoverMoves takes up the moves that were broken off. What cannot be done is left to the next start.
func (s *stack) recoverMoves(ctx context.Context) {
	if moves, err := s.dir.RecoverMoves(ctx); err != nil {
		s.logger.WarnContext(ctx, "moves that were broken off could not be taken up", "error", err)
	} else if moves > 0 {
		s.logger.InfoContext(ctx, "took up moves that were broken off", "count", moves)
	}
}

// Timeouts of the HTTP servers. A handler has no limit of its own: streams may last.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = time.Minute
	idleTimeout       = 2 * time.Minute
	shutdownTimeout   = 10 * time.Second
)

func newServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serve answers requests, keeps spares and purges until ctx ends, then lets requests under way finish, for no longer than shutdownTimeout.
func (s *stack) serve(ctx context.Context, l *listeners) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := func(srv *http.Server, on net.Listener) {
		wg.Go(func() {
			if err := srv.Serve(on); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serve on %s: %w", on.Addr(), err))
			}
		})
	}
	start(s.public, l.public)
	start(s.admin, l.admin)
	wg.Go(func() {
		if err := s.dir.KeepSpares(ctx); err != nil {
			s.logger.WarnContext(ctx, "no spares are kept", "error", err)
		}
	})
	wg.Go(func() { s.dir.KeepPurging(ctx) })
	<-ctx.Done()

	stopCtx, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer stop()
	for _, srv := range []*http.Server{s.public, s.admin} {
		if err := srv.Shutdown(stopCtx); err != nil {
			s.logger.WarnContext(stopCtx, "requests were cut off", "error", err)
			_ = srv.Close()
		}
	}
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}
