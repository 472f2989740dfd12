package directory

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Sentinel errors; compare with errors.Is. A tenant that does not exist is tenant.ErrNotFound.
var (
	// ErrNotMigrated reports a registry that is missing, or older than this program: call Migrate.
	ErrNotMigrated = errors.New("the registry is not up to date")
	// ErrSlugTaken reports a subdomain that belongs to another tenant, or to one that is just being created.
	ErrSlugTaken = errors.New("the subdomain is taken")
	// ErrSecretKey reports that a runtime login does not take the password that is derived from Config.SecretKey: other
	// processes have another key, or had one.
	ErrSecretKey = errors.New("the secret key is not the one that the runtime login's password was made with")
	// ErrRuntimeLogin reports that a runtime login exists but cannot be used as it is, and cannot be set right from here; or that
	// a name is not that of a login of this installation that has tenants.
	ErrRuntimeLogin = errors.New("the runtime login is unfit")
)

// ValidationError says what is wrong with a NewTenant.
type ValidationError struct {
	// Fields maps the name of each field that is wrong (company, contact_name, contact_email, subdomain) to a sentence that is
	// fit to be shown to the person who filled it in.
	Fields map[string]string
}

func (e *ValidationError) Error() string {
	messages := make([]string, 0, len(e.Fields))
	for _, field := range slices.Sorted(maps.Keys(e.Fields)) {
		messages = append(messages, e.Fields[field])
	}
	return strings.Join(messages, " ")
}

// SQLSTATEs that are acted upon.
const (
	codeUniqueViolation      = "23505"
	codeInvalidPassword      = "28P01"
	codeInvalidAuthorization = "28000"
)

// sqlState returns the SQLSTATE that a server's error carries, or "".
func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// violates reports whether err is the violation of the named unique constraint or index.
func violates(err error, constraint string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == codeUniqueViolation && pgErr.ConstraintName == constraint
}
