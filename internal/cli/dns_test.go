package cli_test

import (
	"encoding/json"
	"errors"
	"net"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/net/dns/dnsmessage"
)

// scriptDNS starts a DNS server that knows the TXT record of the domain on standard output, which "tenant domain add --json" has left
// there, and nothing else.
func scriptDNS(ts *testscript.TestScript, _ []string) error {
	tb, ok := ts.Value(tbKey{}).(testing.TB)
	if !ok {
		return errors.New("a script that is no test")
	}
	var domain struct{ Record, Token string }
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &domain); err != nil {
		return err
	}
	conn, err := (&net.ListenConfig{}).ListenPacket(tb.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		answerTXT(conn, domain.Record+".", domain.Token)
	}()
	tb.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	ts.Setenv("DNS", conn.LocalAddr().String())
	return nil
}

// answerTXT answers until the connection is closed.
func answerTXT(conn net.PacketConn, name, text string) {
	buf := make([]byte, 1500)
	for {
		n, peer, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var query dnsmessage.Message
		if err := query.Unpack(buf[:n]); err != nil || len(query.Questions) != 1 {
			continue
		}
		question := query.Questions[0]
		answer := dnsmessage.Message{
			Header: dnsmessage.Header{ID: query.ID, Response: true, Authoritative: true, RCode: dnsmessage.RCodeNameError}, Questions: query.Questions,
		}
		if question.Type == dnsmessage.TypeTXT && question.Name.String() == name {
			answer.RCode = dnsmessage.RCodeSuccess
			answer.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.TXTResource{TXT: []string{text}},
			}}
		}
		packed, err := answer.Pack()
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(packed, peer) // an error here means that the client is gone
	}
}
