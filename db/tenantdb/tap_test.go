package tenantdb_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"

	"github.com/jackc/pgx/v5"
)

// tap keeps what connections send.
type tap struct {
	mu    sync.Mutex
	conns []*tapConn // guarded by mu, as is what they have sent
}

func (p *tap) watch(cc *pgx.ConnConfig) {
	dial := cc.DialFunc
	cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		tapped := &tapConn{Conn: conn, tap: p}
		p.conns = append(p.conns, tapped)
		return tapped, nil
	}
}

type tapConn struct {
	net.Conn
	tap  *tap
	sent []byte
}

func (c *tapConn) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.sent = append(c.sent, b...)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

// with counts the messages of a type that contain text.
func (p *tap) with(typ byte, text string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		rest := c.sent
		for head := 0; len(rest) >= head+4; head = 1 { // the first message has no type
			size := head + int(binary.BigEndian.Uint32(rest[head:]))
			if head == 1 && rest[0] == typ && bytes.Contains(rest[:size], []byte(text)) {
				n++
			}
			rest = rest[size:]
		}
	}
	return n
}
