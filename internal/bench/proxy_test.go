package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// far starts a proxy in front of a server that handles each connection, and returns a connection to the proxy.
func far(t *testing.T, handle func(conn *net.TCPConn)) (*net.TCPConn, *proxy) {
	t.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			go handle(conn)
		}
	}()
	return through(t, listener.Addr().String())
}

// through starts a proxy to an address, and returns a connection to the proxy.
func through(t *testing.T, target string) (*net.TCPConn, *proxy) {
	t.Helper()
	p, err := startProxy(t.Context(), target, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	conn, err := net.DialTCP("tcp4", nil, p.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, p
}

func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.Close()
}

// What is sent in pieces of all sizes comes back whole and in order, also while the delay changes, and then the end comes.
func TestProxyKeepsBytesAndTheirOrder(t *testing.T) {
	t.Parallel()
	conn, p := far(t, echo)
	random := rand.New(rand.NewPCG(1, 2))
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	failed := make(chan error, 1)
	go func() {
		random := rand.New(rand.NewPCG(3, 4))
		for rest := sent; len(rest) > 0; {
			p.setDelay(time.Duration(random.IntN(1000)) * time.Microsecond)
			n := min(len(rest), 1+random.IntN(1<<random.IntN(17)))
			if _, err := conn.Write(rest[:n]); err != nil {
				failed <- err
				return
			}
			rest = rest[n:]
		}
		failed <- conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Errorf("%d bytes were sent, and %d came back, or others", len(sent), len(got))
	}
}

// ended waits until nothing more comes, and fails if anything did.
func ended(t *testing.T, conn io.Reader) {
	t.Helper()
	if rest, err := io.ReadAll(conn); len(rest) > 0 {
		t.Errorf("got %q and error %v, want only the end", rest, err)
	}
}

func TestProxyCloses(t *testing.T) {
	t.Parallel()
	t.Run("the server's side when the client closes", func(t *testing.T) {
		t.Parallel()
		end := make(chan struct{})
		conn, _ := far(t, func(conn *net.TCPConn) {
			_, _ = io.Copy(io.Discard, conn)
			close(end)
			_ = conn.Close()
		})
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		<-end
	})
	t.Run("the client's side when the server closes", func(t *testing.T) {
		t.Parallel()
		conn, _ := far(t, func(conn *net.TCPConn) { _ = conn.Close() })
		ended(t, conn)
	})
	t.Run("the client's side when the server breaks off", func(t *testing.T) {
		t.Parallel()
		conn, _ := far(t, func(conn *net.TCPConn) {
			_ = conn.SetLinger(0) // close sends a reset
			_ = conn.Close()
		})
		ended(t, conn)
	})
	t.Run("both sides when it is closed itself", func(t *testing.T) {
		t.Parallel()
		end, begun := make(chan struct{}), make(chan struct{})
		conn, p := far(t, func(conn *net.TCPConn) {
			close(begun)
			_, _ = io.Copy(io.Discard, conn)
			close(end)
			_ = conn.Close()
		})
		<-begun
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
		<-end
		ended(t, conn)
		if _, err := net.DialTCP("tcp4", nil, p.addr()); err == nil {
			t.Error("it still listens")
		}
	})
	t.Run("the client's side when there is no server", func(t *testing.T) {
		t.Parallel()
		listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		conn, _ := through(t, listener.Addr().String())
		ended(t, conn)
	})
}
