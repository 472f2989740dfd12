package pgdump_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// A server that is reached by TLS only, with a certificate that no file of this machine vouches for: only the configuration in
// memory does.
func TestTLS(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	house(t, pgtest.Connect(t, url), acme, "CREATE TABLE notes ()")
	cfg := pgdump.Config{Conn: connConfig(t, url), Schema: acme}
	want := dump(t, cfg)

	// httptest has a certificate for 127.0.0.1 and an authority that vouches for it.
	authority := httptest.NewTLSServer(http.NotFoundHandler())
	defer authority.Close()
	clientTLS := authority.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	clientTLS.ServerName = "127.0.0.1"
	sessions := make(chan bool, 1)
	plain := cfg.Conn.Host + ":" + strconv.Itoa(int(cfg.Conn.Port))
	port := terminate(t, authority.TLS.Certificates, plain, sessions)

	cfg.Conn = cfg.Conn.Copy()
	cfg.Conn.Port, cfg.Conn.TLSConfig, cfg.Conn.Fallbacks = port, clientTLS, nil
	if diff := cmp.Diff(want, dump(t, cfg)); diff != "" {
		t.Error(diff)
	}
	if encrypted := <-sessions; !encrypted {
		t.Error("the session was not encrypted")
	}
}

// terminate listens for one session that asks for TLS, and passes it on to a server without.
func terminate(tb testing.TB, certificates []tls.Certificate, server string, sessions chan<- bool) (port uint16) {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	tb.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	go func() {
		defer close(done)
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		message, err := pgproto3.NewBackend(client, client).ReceiveStartupMessage()
		_, asked := message.(*pgproto3.SSLRequest)
		sessions <- asked
		if _, answerErr := client.Write([]byte("S")); !asked || err != nil || answerErr != nil {
			return
		}
		upstream, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp4", server)
		if err != nil {
			return
		}
		secure := tls.Server(client, &tls.Config{Certificates: certificates})
		go func() {
			_, _ = io.Copy(upstream, secure)
			_ = upstream.Close()
		}()
		_, _ = io.Copy(secure, upstream)
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// A socket's path must be short, and a folder for temporary files may have a long one.
func TestALongTMPDIR(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	url := pgtest.Database(t)
	house(t, pgtest.Connect(t, url), "long", "CREATE TABLE seen ();")
	t.Setenv("TMPDIR", long)
	if got := dump(t, pgdump.Config{Conn: connConfig(t, url), Schema: "long"}); !strings.Contains(got, "CREATE TABLE seen") {
		t.Errorf("got %s", got)
	}
	if left, err := os.ReadDir(long); err != nil || len(left) > 0 {
		t.Errorf("%v is left there, %v", left, err)
	}
}
