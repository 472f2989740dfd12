package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// Sentinel errors; compare with errors.Is.
var (
	// ErrSchemaMissing reports a target whose schema does not exist. Schemas are never created here.
	ErrSchemaMissing = errors.New("schema does not exist")
	// ErrScopeChanged reports a file that changed search_path, role, or the state of the transaction. It was rolled back, or,
	// with transaction:false, not recorded.
	ErrScopeChanged = errors.New("the migration left its scope")
	// ErrForeign reports a target that was migrated before, but with other files: it belongs to another product, or the wrong
	// folder was given. Nothing was changed.
	ErrForeign = errors.New("its migrations are not these")
	// ErrNoWayBack reports a rollback over a file without a down section, or over a version that no file has. Nothing was changed.
	ErrNoWayBack = errors.New("there is no way back")
	// ErrStopped reports that Options.Stop was closed before all targets were begun.
	ErrStopped = errors.New("asked to stop")
	// ErrCanary reports that targets were held back because the first ones did not all go well.
	ErrCanary = errors.New("the canaries did not all go well")
	// ErrTooManyFailures reports that targets were held back because Options.MaxFailures had failed.
	ErrTooManyFailures = errors.New("too many failures")
	// ErrPooler reports a connection that a pooler stands behind: what is set for one tenant would be found by another.
	ErrPooler = errors.New("a pooler stands between; migrations need a direct connection")
	// ErrNoFiles reports a folder without a migration file.
	ErrNoFiles = errors.New("no migration files")
	// ErrBadName reports a name that NewFile does not accept.
	ErrBadName = errors.New("bad migration name")
)

// FileError is one problem that Load found in a file.
type FileError struct {
	// File is the path inside the file system that Load was given.
	File string
	// Line counts from 1; it is 0 if the problem is the whole file's.
	Line int
	// Message says what is wrong and what to do.
	Message string
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// Error is why one target was not brought up to date. Nothing in it comes from the connection's password.
type Error struct {
	// Target and Schema are the Target's.
	Target, Schema string
	// File is the name of the file that failed, or "" if the failure came before any file.
	File string
	// Line and Column, counted from 1, are where the server found the fault or else where the failed statement begins. Both
	// are 0 if the failure belongs to no statement, as with the commit at the end.
	Line, Column int
	// Statement is the failed statement in full, or "".
	Statement string
	// Err is the cause. Where the server refused, errors.As finds the *pgconn.PgError with its detail and hint. When the
	// context had ended, errors.Is finds its error.
	Err error
}

// excerptLen is how many bytes of a statement an error message shows.
const excerptLen = 120

func (e *Error) Error() string {
	if e.Target == "" {
		return e.Cause()
	}
	return e.Target + ": " + e.Cause()
}

// Cause is the message without the target: targets that failed for the same cause have the same.
func (e *Error) Cause() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Err.Error())
	var pgErr *pgconn.PgError
	if errors.As(e.Err, &pgErr) && pgErr.Detail != "" {
		b.WriteString(" (" + pgErr.Detail + ")")
	}
	if e.Statement != "" {
		fmt.Fprintf(&b, " in %q", excerpt(e.Statement))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// excerpt puts a statement on one line and cuts it.
func excerpt(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= excerptLen {
		return s
	}
	n := excerptLen
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// FailedError reports that some of many targets failed. The others were not affected.
type FailedError struct {
	// Failed holds the targets that failed, in the order of the targets given. Each has an Err.
	Failed []Result
	// Total is how many targets there were.
	Total int
}

// namesShown is how many failed targets a FailedError's message names.
const namesShown = 10

func (e *FailedError) Error() string {
	names := make([]string, 0, namesShown)
	for _, r := range e.Failed[:min(len(e.Failed), namesShown)] {
		names = append(names, r.Target)
	}
	list := strings.Join(names, ", ")
	if more := len(e.Failed) - len(names); more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	targets := "targets"
	if e.Total == 1 {
		targets = "target"
	}
	return fmt.Sprintf("%d of %d %s failed: %s", len(e.Failed), e.Total, targets, list)
}

// Unwrap returns the targets' errors.
func (e *FailedError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, r := range e.Failed {
		errs[i] = r.Err
	}
	return errs
}

// withContext makes an error that came of an ended context say so: the server only speaks of a cancelled statement. Any other
// refusal of the server is its own, though the context ended at the same time.
func withContext(ctx context.Context, err error) error {
	var pgErr *pgconn.PgError
	if ctx.Err() == nil || errors.Is(err, ctx.Err()) || errors.As(err, &pgErr) && pgErr.Code != codeQueryCanceled {
		return err
	}
	return fmt.Errorf("%w: %w", contextError(ctx), err)
}

// contextError is the error of an ended context, with the cause if it was given one.
func contextError(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}

// interrupted reports whether err is what an ended context leaves.
func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, ctx.Err())
}

// SQLSTATEs that are acted upon.
const (
	codeUndefinedTable   = "42P01"
	codeUndefinedColumn  = "42703"
	codeLockNotAvailable = "55P03"
	codeDeadlock         = "40P01"
	codeQueryCanceled    = "57014"
)

// notThere reports whether err is the server's word that a ledger is not what it was thought to be.
func notThere(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == codeUndefinedTable || pgErr.Code == codeUndefinedColumn)
}

// passing reports whether err is the server's word that a transaction lost a contest for locks, and may win the next.
func passing(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == codeLockNotAvailable || pgErr.Code == codeDeadlock)
}

// locate says where in the file the statement stands that failed with err, given how many of the section's statements had
// finished before it, and how many characters were sent before the section.
func (f *file) locate(s *section, finished, before int, err error) error {
	e := &Error{File: f.Name, Err: err}
	place := -1
	if finished < len(s.statements) {
		place = s.statements[finished].start
	}
	// The server's position counts characters in all that was sent. It finds faults in the syntax before it runs anything.
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Position > 0 && int(pgErr.Position) > before {
		place = byteOffset(s.text, int(pgErr.Position)-before)
	}
	if place < 0 {
		return e
	}
	for _, st := range s.statements {
		if st.start <= place && place <= st.end {
			e.Statement = s.text[st.start:st.end]
		}
	}
	above := f.content[:s.offset+place]
	e.Line = 1 + strings.Count(above, "\n")
	e.Column = 1 + utf8.RuneCountInString(above[strings.LastIndexByte(above, '\n')+1:])
	return e
}

// byteOffset is where the n-th character of s begins, counted from 1, or the end of s.
func byteOffset(s string, n int) int {
	for i := range s {
		if n--; n == 0 {
			return i
		}
	}
	return len(s)
}
