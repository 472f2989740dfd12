package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/leasehold-go/leasehold/internal/daemon"
)

// Server is a running PostgreSQL server. Its methods are safe for concurrent use.
type Server struct {
	cfg        Config
	folder     *folder
	state      state
	port       int
	version    string
	postmaster *daemon.Process

	stopping sync.Once
	stopped  chan struct{} // closed when Stop has done its work
	stopErr  error         // to be read after stopped
}

// Start starts the server of a folder, which it makes first if need be, and returns when it is ready for connections.
//
// The error is an *InUseError if the folder or the port is taken, an ErrNoBinaries if there is no PostgreSQL to run, a
// *StartError with the end of the log if PostgreSQL did not start, and otherwise the failure of a file operation or of ctx. After an
// error nothing runs. Start takes a few seconds the first time, to make the cluster, and a fraction of one later on. The
// server outlives ctx, and runs until Stop.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	f, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s, err := startIn(ctx, cfg, f)
	if err != nil {
		return nil, errors.Join(err, closeFolder(cfg, f))
	}
	return s, nil
}

func open(ctx context.Context, cfg Config) (*folder, error) {
	if cfg.Ephemeral {
		sweep(ctx)
		return openEphemeral(ctx)
	}
	return openFolder(ctx, cfg.DataDir)
}

func closeFolder(cfg Config, f *folder) error {
	var err error
	if cfg.Ephemeral {
		err = os.RemoveAll(f.root)
	}
	return errors.Join(err, f.unlock())
}

func startIn(ctx context.Context, cfg Config, f *folder) (*Server, error) {
	as, err := unprivileged(f.data())
	if err != nil {
		return nil, err
	}
	major, err := f.major()
	if err != nil {
		return nil, err
	}
	bin, err := locate(ctx, cfg.Logger, newFinder(as), fetcher{cache: cacheFolder(f, as, cfg.Ephemeral)}, cfg.BinDir, major)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	st, err := f.loadState(major != 0)
	if err != nil {
		return nil, err
	}
	if major == 0 {
		cfg.Logger.InfoContext(ctx, "making a new PostgreSQL cluster", "folder", f.root, "binaries", bin.dir)
		if err := initialise(ctx, cfg, f, as, bin, st.SuperuserPassword); err != nil {
			return nil, err
		}
	} else if err := clearStale(ctx, f); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, folder: f, state: st, stopped: make(chan struct{})}
	if err := s.listen(ctx, as, bin); err != nil {
		return nil, err
	}
	cfg.Logger.InfoContext(ctx, "PostgreSQL is ready", "port", s.port, "version", s.version, "pid", s.postmaster.PID())
	return s, nil
}

// listen starts the server on the port that is asked for, else on the last one, else on a free one. A free port may be taken by
// someone else before the server has it, so it may take more than one attempt.
func (s *Server) listen(ctx context.Context, as account, bin binaries) error {
	if s.cfg.Port != 0 {
		if err := checkPort(s.cfg.Port); err != nil {
			return err
		}
		return s.run(ctx, as, bin, s.cfg.Port)
	}
	const attempts = 3
	var err error
	for i := range attempts {
		port := s.state.Port
		if i > 0 || port == 0 || checkPort(port) != nil {
			if port, err = freePort(); err != nil {
				return err
			}
		}
		err = s.run(ctx, as, bin, port)
		if _, failed := errors.AsType[*StartError](err); !failed || ctx.Err() != nil {
			break
		}
	}
	if err != nil || s.port == s.state.Port {
		return err
	}
	s.state.Port = s.port
	if err := s.folder.saveState(s.state); err != nil {
		return errors.Join(err, s.end(ctx, s.cfg.stopSignal()))
	}
	return nil
}

// run starts the server on a port and waits until it is ready and has what it must have. After an error nothing runs.
func (s *Server) run(ctx context.Context, as account, bin binaries, port int) error {
	log, from, err := s.folder.openLog()
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server has its own descriptor of it
	p, err := startPostmaster(ctx, s.cfg, s.folder, as, bin, port, log)
	if err != nil {
		return err
	}
	s.port, s.postmaster = port, p
	conn, err := awaitReady(ctx, p, s.URL(Superuser, "postgres"))
	if err != nil {
		failure := &StartError{Program: "postgres", Err: err, LogFile: s.folder.log(), LogTail: tail(s.folder.log(), from)}
		return errors.Join(failure, s.end(ctx, syscall.SIGQUIT))
	}
	s.version, err = provision(ctx, conn, s.state.AdministratorPassword)
	if closeErr := conn.Close(ctx); err == nil && closeErr != nil {
		err = fmt.Errorf("pgserver: %w", closeErr)
	}
	if err != nil {
		return errors.Join(err, s.end(ctx, syscall.SIGINT))
	}
	return nil
}

// end ends the server's processes and waits for them.
func (s *Server) end(ctx context.Context, sig syscall.Signal) error {
	if err := s.postmaster.Stop(ctx, sig, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	if !awaitGone(context.WithoutCancel(ctx), s.folder.data(), killDelay) {
		return fmt.Errorf("pgserver: processes of the server in %s are still running", s.folder.root)
	}
	return nil
}

// Stop stops the server and returns when all its processes are gone. Connections are closed and open transactions rolled
// back. Until ctx ends it waits for the server to end in order; then it makes it end, which takes some seconds at most. The
// data is safe either way. An ephemeral server's folder is removed. Later calls wait for the first one and return its error.
func (s *Server) Stop(ctx context.Context) error {
	s.stopping.Do(func() {
		defer close(s.stopped)
		s.stopErr = errors.Join(s.end(ctx, s.cfg.stopSignal()), closeFolder(s.cfg, s.folder))
		s.cfg.Logger.InfoContext(ctx, "PostgreSQL has stopped", "port", s.port)
	})
	<-s.stopped
	return s.stopErr
}

// Done returns a channel that is closed when the server process has ended, be it by Stop or by itself. Stop must be called in
// any case.
func (s *Server) Done() <-chan struct{} { return s.postmaster.Done() }

// Port returns the TCP port on 127.0.0.1.
func (s *Server) Port() int { return s.port }

// PID returns the id of the server process.
func (s *Server) PID() int { return s.postmaster.PID() }

// Version returns the server's version, such as "15.13".
func (s *Server) Version() string { return s.version }

// LogFile returns the path of the server's own log.
func (s *Server) LogFile() string { return s.folder.log() }

// URL returns the postgres:// URL of a database for a login. It holds the password of Superuser or Administrator; for any
// other login it holds none. Take care where it is shown.
func (s *Server) URL(user, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(user),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	switch user {
	case Superuser:
		u.User = url.UserPassword(user, s.state.SuperuserPassword)
	case Administrator:
		u.User = url.UserPassword(user, s.state.AdministratorPassword)
	}
	return u.String()
}
