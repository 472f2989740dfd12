package tenantdb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Sentinel errors, for errors.Is. Errors of the server stay reachable as *pgconn.PgError through errors.As.
var (
	// ErrScope reports that the server did not accept a tenant's scope. Nothing of the caller's was executed.
	ErrScope = errors.New("the tenant's scope was refused")
	// ErrSchemaMissing is the ErrScope of a tenant whose schema does not exist (any more).
	ErrSchemaMissing = fmt.Errorf("%w: its schema does not exist", ErrScope)
	// ErrBusy reports that no connection became free in time: of ours, or of the server's, if others have all that it takes. Nothing was
	// sent; the call may be tried again later.
	ErrBusy = errors.New("no database connection became free in time")
	// ErrUnavailable reports that the tenant's server cannot be reached, or takes no connections now. Nothing was sent; other
	// servers' tenants are not concerned, and the server is tried again once in a second while there are calls.
	ErrUnavailable = errors.New("the database server is not available")
	// ErrRefused reports a statement or an option that cannot be held to a tenant, such as SET, LISTEN or the simple
	// protocol. Nothing was sent.
	ErrRefused = errors.New("refused inside a tenant")
	// ErrClosed reports a call on a DB that was closed.
	ErrClosed = errors.New("the database handle is closed")
)

// SQLSTATEs that decide something here.
const (
	codeInvalidPassword      = "28P01"
	codeTooManyConnections   = "53300"
	codeAdminShutdown        = "57P01"
	codeCrashShutdown        = "57P02"
	codeCannotConnectNow     = "57P03"
	codeDivisionByZero       = "22012"
	codeInvalidSchemaName    = "3F000"
	codeFeatureNotSupported  = "0A000"
	codeInvalidStatementName = "26000"
	codeUndefinedFunction    = "42883"
	codeUndefinedTable       = "42P01"
	codeDatatypeMismatch     = "42804"
	codeIndeterminateType    = "42P18"
	codeCannotCoerce         = "42846"
	codeInvalidText          = "22P02"
	codeInvalidBinary        = "22P03"
	codeProtocolViolation    = "08P01"
	codeInternalError        = "XX000"
)

// scopeError dresses an error that the scope statement met.
func scopeError(s *scope, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.SeverityUnlocalized == "FATAL" || pgErr.SeverityUnlocalized == "PANIC" {
		return err // the connection's end, not the scope's
	}
	kind := ErrScope
	if pgErr.Code == codeInvalidSchemaName {
		kind = ErrSchemaMissing
	}
	return fmt.Errorf("tenant %s: %w: %w", s.tenant.Slug, kind, pgErr)
}

// planIsStale reports whether the server refused to start a statement because what was prepared under its name no longer
// fits, or is not there.
func planIsStale(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == codeFeatureNotSupported || pgErr.Code == codeInvalidStatementName)
}

// typesDisagree reports whether err is one that a description of other types than this tenant's can cause. Where the
// description was the tenant's own, a value that the server cannot read is the caller's fault and not the description's.
func typesDisagree(err error, own bool) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case codeUndefinedFunction, codeDatatypeMismatch, codeIndeterminateType, codeCannotCoerce, codeProtocolViolation:
		return true
	case codeInvalidText, codeInvalidBinary:
		return !own
	case codeInternalError: // "cache lookup failed for type": a type that was dropped
		return strings.HasPrefix(pgErr.Message, "cache lookup failed for type")
	}
	return false
}
