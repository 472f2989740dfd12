//go:build unix

package tenantdb

import (
	"net"
	"syscall"
)

// quiet reports whether an idle connection is still open and has nothing to say. It looks at the socket without waiting and
// without taking anything from it. What waits there is a FIN or a last word of the server, or a harmless notice: the caller
// asks the server to tell them apart. The way to look is that of github.com/go-sql-driver/mysql.
func quiet(conn net.Conn) bool {
	if inner, ok := conn.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		conn = inner.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	silent := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && silent
}
