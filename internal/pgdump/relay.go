package pgdump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// relayPort is part of the socket's name, as libpq forms it.
const relayPort = "5432"

// relay passes an open session on to the first client that connects to a unix socket, without asking who it is: the folder of the
// socket decides that. For the client it looks like a server that trusts it.
type relay struct {
	dir      string
	listener net.Listener
	conn     *pgconn.PgConn
	server   *pgconn.HijackedConn
	// stop ends the relay by force, through the context of serve.
	stop context.CancelFunc
	done chan struct{}
	err  error // to be read after done
}

// socketName is what libpq looks for in the folder that it is given as its host.
const socketName = ".s.PGSQL." + relayPort

// maxSocketPath is how long the path of a socket may be, where it may be least long (macOS; Linux allows 107 bytes).
const maxSocketPath = 103

// socketDir makes a folder of our own for the socket: among the temporary files, or in /tmp if the path there would be too long.
func socketDir() (string, error) {
	const pattern = "leasehold-dump-*"
	dir, err := os.MkdirTemp("", pattern)
	if err != nil || len(filepath.Join(dir, socketName)) <= maxSocketPath {
		return dir, err
	}
	if err := os.Remove(dir); err != nil {
		return "", err
	}
	return os.MkdirTemp("/tmp", pattern)
}

// newRelay takes the connection over, which must be idle. The relay must be closed.
func newRelay(ctx context.Context, conn *pgconn.PgConn) (_ *relay, err error) {
	if err := conn.SyncConn(ctx); err != nil {
		return nil, err
	}
	r := &relay{conn: conn, done: make(chan struct{})}
	if r.dir, err = socketDir(); err != nil {
		return nil, err
	}
	r.listener, err = (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(r.dir, socketName))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(r.dir))
	}
	if r.server, err = conn.Hijack(); err != nil {
		return nil, errors.Join(err, r.listener.Close(), os.RemoveAll(r.dir))
	}
	forced, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	go func() {
		defer close(r.done)
		r.err = r.serve(forced)
	}()
	return r, nil
}

// serve passes bytes on until one side closes.
func (r *relay) serve(ctx context.Context) error {
	defer func() { _ = r.server.Conn.Close() }()
	closeListener := context.AfterFunc(ctx, func() { _ = r.listener.Close() })
	client, err := r.listener.Accept()
	closeListener()
	_ = r.listener.Close()
	if err != nil {
		return errors.New("it did not connect")
	}
	defer func() { _ = client.Close() }()
	stopClient := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stopClient()
	if err := r.greet(client); err != nil {
		return err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// How either side ends is for pg_dump to judge.
		_, _ = io.Copy(r.server.Conn, client)
		_ = r.server.Conn.Close()
	}()
	_, _ = io.Copy(client, r.server.Conn)
	_ = client.Close()
	<-sent
	return nil
}

// greet does for the client what the server did for us: it lets it in and tells it the session's settings. The client gets no key
// to cancel with, since that would need a second connection.
func (r *relay) greet(client net.Conn) error {
	backend := pgproto3.NewBackend(client, client)
	for {
		message, err := backend.ReceiveStartupMessage()
		if err != nil {
			return fmt.Errorf("start of the session: %w", err)
		}
		switch message.(type) {
		case *pgproto3.StartupMessage:
			backend.Send(&pgproto3.AuthenticationOk{})
			for name, value := range r.server.ParameterStatuses {
				backend.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
			}
			backend.Send(&pgproto3.BackendKeyData{ProcessID: r.server.PID, SecretKey: make([]byte, 4)})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: r.server.TxStatus})
			return backend.Flush()
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := client.Write([]byte("N")); err != nil {
				return err
			}
		default:
			return fmt.Errorf("start of the session: unexpected %T", message)
		}
	}
}

// close removes the socket and ends the session. In order, it waits for the client's own goodbye to get through; else it
// tells the server to stop what it is doing.
func (r *relay) close(ctx context.Context, orderly bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = r.listener.Close()
	if orderly {
		select {
		case <-r.done:
		case <-ctx.Done():
		}
	} else {
		// If it cannot be told, it notices that the connection is gone when it next writes to it.
		_ = r.conn.CancelRequest(ctx)
	}
	r.stop()
	_ = r.server.Conn.Close()
	<-r.done
	return errors.Join(r.err, os.RemoveAll(r.dir))
}
