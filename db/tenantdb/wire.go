package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// errConnBusy is pgx's answer to a call on a connection whose last result is still being read.
var errConnBusy = errors.New("conn busy: read or close the rows of the last query first")

// backgroundWrite is the size, in bytes, from which a flight is written by a goroutine of its own, so that neither side waits
// for the other to read. A smaller one fits into any socket's buffer.
const backgroundWrite = 4 << 10

// cancelTimeout bounds the request that stops a query whose answer nobody waits for any more.
const cancelTimeout = 5 * time.Second

// wire is the conversation of one flight: what is sent, then one Sync, then all the answers up to ReadyForQuery. It speaks
// PostgreSQL's protocol through pgconn's own framing, because pgconn's pipeline costs more than the scope that it would carry.
// After an error of the server the conversation is over in order; after any other the connection is closed.
type wire struct {
	s   *session
	ctx context.Context
	// written gets the result of a background write.
	written chan error
	over    bool
	err     error
}

// open starts a conversation. On error nothing was sent and the connection is as it was.
func (w *wire) open(ctx context.Context, s *session) error {
	w.s, w.ctx = s, ctx
	switch {
	case s.flying:
		w.err = errConnBusy
	case s.pg.IsClosed():
		w.err = pgconn.ErrConnClosed
	case ctx.Err() != nil:
		w.err = fmt.Errorf("context already done: %w", ctx.Err())
	}
	if w.err != nil {
		w.over = true
		return w.err
	}
	s.flying = true
	s.out, s.outErr = s.out[:0], nil
	return nil
}

func (w *wire) sendParse(name, sql string, oids []uint32) {
	w.put((&pgproto3.Parse{Name: name, Query: sql, ParameterOIDs: oids}).Encode(w.s.out))
}

func (w *wire) sendBind(name string, values [][]byte, formats, resultFormats []int16) {
	b := &w.s.bind
	b.PreparedStatement, b.ParameterFormatCodes, b.Parameters, b.ResultFormatCodes = name, formats, values, resultFormats
	w.put(b.Encode(w.s.out))
	*b = pgproto3.Bind{}
}

var (
	describePortal = &pgproto3.Describe{ObjectType: 'P'}
	executeAll     = &pgproto3.Execute{}
	syncMessage    = &pgproto3.Sync{}
)

// sync sends everything. From here on the context's end breaks the conversation.
func (w *wire) sync() error {
	w.put(syncMessage.Encode(w.s.out))
	out, err := w.s.out, w.s.outErr
	w.s.out, w.s.outErr = out[:0], nil
	if err != nil { // a message that cannot be written; nothing was sent
		w.over, w.err, w.s.flying = true, err, false
		return err
	}
	conn := w.s.pg.Conn()
	w.s.watcher.Watch(w.ctx)
	if len(out) < backgroundWrite {
		if _, err := conn.Write(out); err != nil {
			return w.breakOff(err)
		}
		return nil
	}
	w.s.out = nil
	w.written = make(chan error, 1)
	go func() {
		_, err := conn.Write(out)
		if err != nil {
			_ = conn.Close() // who waits for an answer need not
		}
		w.written <- err
	}()
	return nil
}

// put takes an encoded message. The first error stays and comes out of sync.
func (w *wire) put(out []byte, err error) {
	switch {
	case w.s.outErr != nil:
	case err != nil:
		w.s.outErr = err
	default:
		w.s.out = out
	}
}

// next returns the next answer. An error of the server ends the conversation and is returned as a *pgconn.PgError.
func (w *wire) next() (pgproto3.BackendMessage, error) {
	if w.over {
		return nil, w.lastError()
	}
	for {
		msg, err := w.s.pg.ReceiveMessage(context.Background())
		if err != nil {
			return nil, w.breakOff(err)
		}
		switch msg := msg.(type) {
		case *pgproto3.ParameterStatus, *pgproto3.NoticeResponse, *pgproto3.NotificationResponse:
		case *pgproto3.ErrorResponse:
			w.err = pgconn.ErrorResponseToPgError(msg)
			w.drain()
			return nil, w.err
		default:
			return msg, nil
		}
	}
}

func (w *wire) lastError() error {
	if w.err != nil {
		return w.err
	}
	return errors.New("tenantdb: the flight is over")
}

// drain reads up to ReadyForQuery. The first error stays the conversation's error.
func (w *wire) drain() {
	for !w.over {
		msg, err := w.s.pg.ReceiveMessage(context.Background())
		if err != nil {
			_ = w.breakOff(err)
			return
		}
		switch msg := msg.(type) {
		case *pgproto3.ErrorResponse:
			if w.err == nil {
				w.err = pgconn.ErrorResponseToPgError(msg)
			}
		case *pgproto3.ReadyForQuery:
			w.close()
		case *pgproto3.CopyInResponse, *pgproto3.CopyBothResponse: // the server waits for data, for ever
			_ = w.unexpected(msg)
		}
	}
}

// land reads what is left and returns what went wrong, the commit included. It may be called again.
func (w *wire) land() error {
	w.drain()
	return w.err
}

// close ends the conversation.
func (w *wire) close() {
	w.over = true
	w.s.watcher.Unwatch()
	if w.written != nil {
		if err := <-w.written; err != nil && w.err == nil {
			w.err = err
		}
		w.written = nil
	}
	w.s.flying = false
}

// breakOff closes the connection, because nobody knows what will come over it next, and stops what the server may still be
// doing. It returns the error that the caller gets.
func (w *wire) breakOff(err error) error {
	if w.over {
		return w.lastError()
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) && w.ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", w.ctx.Err(), err)
		if cause := context.Cause(w.ctx); !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}
	if w.err == nil {
		w.err = err
	}
	w.s.abort()
	w.close()
	return w.err
}

// unexpected ends a conversation that the server does not hold to the protocol.
func (w *wire) unexpected(msg pgproto3.BackendMessage) error {
	return w.breakOff(fmt.Errorf("tenantdb: unexpected message %T from the server", msg))
}

// expect reads the next answer, which must be a T.
func expect[T pgproto3.BackendMessage](w *wire) (T, error) {
	var none T
	msg, err := w.next()
	if err != nil {
		return none, err
	}
	t, ok := msg.(T)
	if !ok {
		return none, w.unexpected(msg)
	}
	return t, nil
}

// fieldsOf copies what the server says of a result's columns; its message is overwritten by the next one.
func fieldsOf(msg *pgproto3.RowDescription) []pgconn.FieldDescription {
	fields := make([]pgconn.FieldDescription, len(msg.Fields))
	for i := range msg.Fields {
		f := &msg.Fields[i]
		fields[i] = pgconn.FieldDescription{
			Name: string(f.Name), TableOID: f.TableOID, TableAttributeNumber: f.TableAttributeNumber, DataTypeOID: f.DataTypeOID,
			DataTypeSize: f.DataTypeSize, TypeModifier: f.TypeModifier, Format: f.Format,
		}
	}
	return fields
}
