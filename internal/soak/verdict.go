package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// class is how an operation ended.
type class uint8

const (
	fine class = iota
	// Ends by the caller's own hand.
	cancelledWaiting // for a connection
	cancelledFlying  // anywhere else
	busy             // the deadline passed while it waited for a connection
	late             // the deadline passed anywhere else
	panicked
	// Ends by what happened around.
	terminated
	serialization
	schemaMissing
	schemaChanged // it went or changed while the call was under way
	stalePlan     // in a transaction or a batch, where nothing can be sent again
	// Errors that were asked for.
	provoked // by the statement: division by zero, duplicate key, a type that does not fit
	deferred // a constraint that is checked at the commit
	denied   // another tenant's table by its full name
	noTenant
	mismatch
	refused
	// Faults.
	wrongRow
	other
	classes
)

var classNames = [classes]string{
	fine: "none", cancelledWaiting: "cancelled, waiting for a connection", cancelledFlying: "cancelled, under way",
	busy: "busy: deadline passed waiting", late: "deadline passed under way", panicked: "panic of the caller",
	terminated: "terminated", serialization: "serialization", schemaMissing: "schema missing",
	schemaChanged: "schema changed under the call", stalePlan: "stale plan in a transaction", provoked: "provoked by the statement",
	deferred: "deferred constraint", denied: "denied: another tenant's table", noTenant: "no tenant", mismatch: "tenant mismatch",
	refused: "refused", wrongRow: "WRONG ROW", other: "OTHER",
}

// Faults that an operation finds by itself.
var (
	errWrongRow = errors.New("a row or a setting of another tenant")
	errMissed   = errors.New("an error that had to come did not come")
	errShort    = errors.New("rows are missing")
	errPanicked = errors.New("a panic that was not the caller's")
	errNowhere  = errors.New("there is no schema on the path") // it went away under the call, or else it is a fault
)

// wrong is the fault of a call for h that met something of somebody else's.
func (h *house) wrong(what, got string) error {
	return fmt.Errorf("%w: %s of %s is %q", errWrongRow, what, h.Slug, got)
}

// The SQLSTATEs that have a meaning here.
const (
	divisionByZero    = "22012"
	invalidText       = "22P02"
	foreignKey        = "23503"
	duplicateKey      = "23505"
	lackOfPrivilege   = "42501"
	syntaxError       = "42601"
	undefinedTable    = "42P01"
	undefinedColumn   = "42703" // of the temporary table that a session finds where its tenant's table was
	undefinedObject   = "42704"
	undefinedFunction = "42883"
	datatypeMismatch  = "42804"
	invalidSchema     = "3F000"
	internalError     = "XX000" // a relation or type that was dropped a moment ago
	notSupported      = "0A000" // a cached plan must not change its result type
	serializationCode = "40001"
	deadlock          = "40P01"
	queryCanceled     = "57014"
	adminShutdown     = "57P01"
	protocolViolation = "08P01" // what PgBouncer calls a server that went away
	lockNotAvailable  = "55P03"
)

// sqlstate returns the SQLSTATE of an error, or "".
func sqlstate(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// circumstances are what can excuse an error.
type circumstances struct {
	before, after sight
	// cancelled and expired say that the operation's context ended, and how.
	cancelled, expired bool
	// unrepeatable says that the operation has statements that cannot be sent a second time.
	unrepeatable bool
	// homeless says that the operation does not need the tenant's schema.
	homeless bool
	pooled   bool
}

func (c circumstances) String() string {
	text := "left alone"
	switch {
	case c.cancelled:
		text = "cancelled"
	case c.expired:
		text = "past its deadline"
	}
	switch {
	case !quiet(c.before, c.after):
		text += ", the schema changing"
	case c.after.gone:
		text += ", the schema gone"
	case c.after.changed():
		text += ", the schema as it was long before"
	}
	return text
}

// judge says how an operation ended. An error without an excuse is other.
func (c circumstances) judge(err error) class {
	still := quiet(c.before, c.after)
	switch {
	case errors.Is(err, errWrongRow):
		return wrongRow
	case !still && (errors.Is(err, errShort) || errors.Is(err, pgx.ErrNoRows)): // as old snapshots find a table that was rewritten
		return schemaChanged
	case errors.Is(err, errMissed), errors.Is(err, errShort), errors.Is(err, errPanicked):
		return other
	case err == nil && still && c.after.gone && !c.homeless:
		return other // an answer from a schema that is not there
	case err == nil:
		return fine
	case c.cancelled || c.expired:
		if cl := c.ownEnd(err); cl != fine {
			return cl
		}
	}
	switch code := sqlstate(err); {
	case errors.Is(err, tenantdb.ErrSchemaMissing):
		if still && !c.after.gone {
			return other
		}
		return schemaMissing
	case code == adminShutdown, c.pooled && code == protocolViolation, (code == "" || c.stale(code)) && lostConnection(err):
		return terminated
	case code == serializationCode, code == deadlock:
		return serialization
	case !still && (missesObject(code) || errors.Is(err, errNowhere)):
		return schemaChanged
	case c.unrepeatable && c.stale(code):
		return stalePlan
	}
	return other
}

// stale reports whether code is that of a statement which was prepared for a schema that has changed since.
func (c circumstances) stale(code string) bool { return c.after.changed() && missesType(code) }

// ownEnd judges an error of an operation whose context has ended. It returns fine if the context does not explain it.
func (c circumstances) ownEnd(err error) class {
	code := sqlstate(err)
	if c.stale(code) && isContextEnd(err) {
		code = "" // it would have been sent again, but for the end of its context
	}
	if code != "" && code != queryCanceled || errors.Is(err, tenant.ErrNoTenant) || errors.Is(err, tenant.ErrMismatch) ||
		errors.Is(err, tenantdb.ErrRefused) || errors.Is(err, tenantdb.ErrScope) || errors.Is(err, tenantdb.ErrClosed) {
		return fine
	}
	waiting := errors.Is(err, tenantdb.ErrBusy)
	switch {
	case code == "" && !isContextEnd(err) && !lostConnection(err):
		return fine // it does not say so
	case c.expired && waiting:
		return busy
	case c.expired:
		return late
	case waiting:
		return cancelledWaiting
	}
	return cancelledFlying
}

// lostConnection reports whether err is what is left when the other side went away.
func lostConnection(err error) bool {
	for _, target := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, pgconn.ErrConnClosed} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// missesObject reports whether code is that of a statement whose table went away after its scope was set.
func missesObject(code string) bool {
	switch code {
	case undefinedTable, undefinedColumn, undefinedObject, invalidSchema:
		return true
	}
	return missesType(code)
}

// missesType reports whether code is that of a statement that was prepared for a type that is no longer there.
func missesType(code string) bool {
	switch code {
	case notSupported, internalError, undefinedFunction, datatypeMismatch:
		return true
	}
	return false
}

// outcomeOf says what became of a write. sent says that its commit may have been sent.
func outcomeOf(err error, sent bool) outcome {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return committed
	case !sent, errors.Is(err, tenant.ErrNoTenant), errors.Is(err, tenant.ErrMismatch), errors.Is(err, tenantdb.ErrRefused),
		errors.Is(err, tenantdb.ErrBusy), errors.Is(err, tenantdb.ErrScope), errors.Is(err, pgx.ErrTxCommitRollback):
		return undone
	case errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR":
		return undone // the server says that it rolled back
	}
	return unknown
}

// isContextEnd reports whether err says that a context ended.
func isContextEnd(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
