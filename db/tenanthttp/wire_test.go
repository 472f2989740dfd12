package tenanthttp_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// THREATS 37, over HTTP/1: what one request can say about its host, byte for byte.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newMiddleware(t, nil, nil).Handler(http.HandlerFunc(mark)))
	t.Cleanup(server.Close)

	for _, tc := range []struct {
		name, raw string
		want      outcome
	}{
		{"origin form", "GET / HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{200, "acme"}},
		{"port, case and root dot", "GET / HTTP/1.1\r\nHost: ACME.Example.COM.:8080\r\n", outcome{200, "acme"}},
		{"absolute form", "GET http://acme.example.com/ HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{200, "acme"}},
		{"absolute form, another Host", "GET http://acme.example.com/ HTTP/1.1\r\nHost: globex.example.com\r\n", outcome{200, "acme"}},
		{"absolute form to nobody", "GET http://nobody.example.com/ HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{404, ""}},
		{"absolute form to the apex", "GET http://example.com/ HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{200, "nobody"}},
		{"absolute form to a stranger", "GET http://example.org/ HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{400, ""}},
		{"absolute form without a host", "GET http:///path HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{400, ""}},
		{"opaque", "GET http:acme.example.com HTTP/1.1\r\nHost: globex.example.com\r\n", outcome{400, ""}},
		{"absolute form with a user", "GET http://acme@globex.example.com/ HTTP/1.1\r\nHost: globex.example.com\r\n", outcome{400, ""}},
		{"absolute form with percent", "GET http://acme%2eexample.com/ HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{400, ""}},
		{"two slashes are a path", "GET //globex.example.com/ HTTP/1.1\r\nHost: acme.example.com\r\n", outcome{200, "acme"}},
		{"user in Host", "GET / HTTP/1.1\r\nHost: acme@globex.example.com\r\n", outcome{400, ""}},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: acme.example.com\r\nHost: globex.example.com\r\n", outcome{400, ""}},
		{"folded Host", "GET / HTTP/1.1\r\nHost: acme.example.com\r\n globex.example.com\r\n", outcome{400, ""}},
		{"no Host", "GET / HTTP/1.1\r\n", outcome{400, ""}},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n", outcome{400, ""}},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n", outcome{400, ""}},
		{"HTTP/1.0 with Host", "GET / HTTP/1.0\r\nHost: acme.example.com\r\n", outcome{200, "acme"}},
		{"non-ASCII", "GET / HTTP/1.1\r\nHost: \xc3\xa4cme.example.com\r\n", outcome{400, ""}},
		{"forwarded by a stranger", "GET / HTTP/1.1\r\nHost: acme.example.com\r\nX-Forwarded-Host: globex.example.com\r\n" +
			"Forwarded: host=globex.example.com\r\n", outcome{200, "acme"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := exchange(t, server.Listener.Addr().String(), tc.raw+"Connection: close\r\n\r\n", http.MethodGet)
			if diff := cmp.Diff([]outcome{tc.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// http2Server serves the middleware over TLS, and tells each client its connection in the header X-Connection.
func http2Server(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(newMiddleware(t, nil, nil).Handler(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mark(w, r)
			w.Header().Set("X-Connection", r.RemoteAddr)
		})))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// THREATS 39: browsers reuse one HTTP/2 connection for all hosts that its certificate covers.
func TestCoalescedHTTP2Connection(t *testing.T) {
	t.Parallel()
	server := http2Server(t)

	var got []string
	connections := map[string]bool{}
	for _, host := range []string{"acme.example.com", "globex.example.com", "example.com", "acme.example.com"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		got = append(got, res.Header.Get(marker))
		connections[res.Header.Get("X-Connection")] = true
		if res.ProtoMajor != 2 {
			t.Errorf("%s was asked over %s, want HTTP/2.0", host, res.Proto)
		}
	}
	if diff := cmp.Diff([]string{"acme", "globex", "nobody", "acme"}, got); diff != "" {
		t.Error(diff)
	}
	if len(connections) != 1 {
		t.Errorf("the requests did not share one connection: %v", connections)
	}
}

// Over HTTP/2 a request can name a host in :authority, in a Host header and in :path, and net/http passes on all three.
func TestHTTP2RequestsThatNameTwoHosts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		fields []string
		status string
	}{
		{"authority", []string{":authority", acme, ":path", "/"}, "200"},
		{"authority and the same Host", []string{":authority", acme, ":path", "/", "host", acme}, "200"},
		{"authority and another Host", []string{":authority", acme, ":path", "/", "host", globex}, "400"},
		{"Host only", []string{":path", "/", "host", acme}, "200"},
		{"two Hosts", []string{":path", "/", "host", acme, "host", globex}, "400"},
		{"the same Host twice", []string{":path", "/", "host", acme, "host", acme}, "400"},
		{"another host in path", []string{":authority", acme, ":path", "http://" + globex + "/"}, "400"},
		{"the same host in path", []string{":authority", acme, ":path", "http://" + acme + "/"}, "200"},
		{"none", []string{":path", "/"}, "400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := http2Status(t, http2Server(t), tc.fields); got != tc.status {
				t.Errorf("got status %s, want %s", got, tc.status)
			}
		})
	}
}

// http2Status sends one request made of the given header fields, after :method and :scheme, and returns the status.
func http2Status(t *testing.T, server *httptest.Server, fields []string) string {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{
		RootCAs:    server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
		NextProtos: []string{http2.NextProtoTLS},
	}}
	conn, err := dialer.DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields = append([]string{":method", "GET", ":scheme", "https"}, fields...)
	for i := 0; i < len(fields); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err := errors.Join(err, framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
	})); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			t.Fatalf("the server refused the stream: %v", frame)
		}
	}
}
