package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy carries TCP connections to a server and back, and hands on each chunk a little late, as a network does whose ends are
// far apart. It limits nothing else: chunks overlap on their way, as many as there are, so a caller that pipelines gains from
// it. Bytes arrive whole and in order. When one end has finished sending, the other is told after all that was sent; when a
// connection breaks on one side, it is closed on both.
type proxy struct {
	listener net.Listener
	target   string
	delay    atomic.Int64 // nanoseconds, each way

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
	work   sync.WaitGroup
}

// startProxy starts a proxy on a free port of 127.0.0.1. Close it.
func startProxy(ctx context.Context, target string, delay time.Duration) (*proxy, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &proxy{listener: listener, target: target, open: make(map[net.Conn]bool)}
	p.setDelay(delay)
	p.work.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() *net.TCPAddr { return p.listener.Addr().(*net.TCPAddr) }

// setDelay changes the delay of what is read from now on.
func (p *proxy) setDelay(delay time.Duration) { p.delay.Store(int64(delay)) }

// close closes all connections and returns when nothing of the proxy runs any more.
func (p *proxy) close() error {
	p.mu.Lock()
	p.closed = true
	err := p.listener.Close()
	for conn := range p.open {
		_ = conn.Close() // its pipes end
	}
	p.mu.Unlock()
	p.work.Wait()
	return err
}

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.work.Go(func() { p.serve(conn) })
		}
	}
}

// keep remembers a connection for close. It reports false, and closes the connection, if close has been called.
func (p *proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = conn.Close()
		return false
	}
	p.open[conn] = true
	return true
}

func (p *proxy) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
	_ = conn.Close()
}

func (p *proxy) serve(client net.Conn) {
	if !p.keep(client) {
		return
	}
	defer p.drop(client)
	var dialer net.Dialer
	server, err := dialer.DialContext(context.Background(), "tcp4", p.target)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	var ways sync.WaitGroup
	ways.Go(func() { p.pipe(server, client) })
	ways.Go(func() { p.pipe(client, server) })
	ways.Wait()
}

const (
	chunkSize = 16 << 10
	// chunksOnTheWay bounds the memory of one direction. What is on its way for a millisecond stays far below.
	chunksOnTheWay = 256
)

type chunk struct {
	bytes *[chunkSize]byte
	n     int
	due   time.Time
}

// pipe carries what src sends to dst, until src has sent its last or one of them breaks.
func (p *proxy) pipe(dst, src net.Conn) {
	way := make(chan chunk, chunksOnTheWay)
	free := make(chan *[chunkSize]byte, chunksOnTheWay) // so that the proxy makes no garbage while others are measured
	var writer sync.WaitGroup
	writer.Go(func() { deliver(dst, src, way, free) })
	defer writer.Wait()
	defer close(way)
	for {
		var bytes *[chunkSize]byte
		select {
		case bytes = <-free:
		default:
			bytes = new([chunkSize]byte)
		}
		n, err := src.Read(bytes[:])
		if n > 0 {
			way <- chunk{bytes, n, time.Now().Add(time.Duration(p.delay.Load()))}
		}
		if err != nil {
			return
		}
	}
}

func deliver(dst, src net.Conn, way <-chan chunk, free chan<- *[chunkSize]byte) {
	for c := range way {
		if wait := time.Until(c.due); wait > 0 {
			time.Sleep(wait)
		}
		if _, err := dst.Write(c.bytes[:c.n]); err != nil {
			_ = dst.Close()
			_ = src.Close() // the reader ends
			for range way { //nolint:revive // what is left has nowhere to go
			}
			return
		}
		select {
		case free <- c.bytes:
		default:
		}
	}
	if tcp, ok := dst.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}
