package directory

import (
	"errors"
	"fmt"
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
	// ErrDomainTaken reports a domain that another tenant has verified.
	ErrDomainTaken = errors.New("the domain belongs to another tenant")
	// ErrNoDomain reports a domain that the tenant has not claimed.
	ErrNoDomain = errors.New("the tenant has not claimed the domain")
	// ErrTooManyDomains reports a tenant that has MaxDomains already.
	ErrTooManyDomains = fmt.Errorf("a tenant may have at most %d domains", MaxDomains)
	// ErrPurging reports that another process is purging tenants just now.
	ErrPurging = errors.New("another process is purging tenants")
	// ErrSecretKey reports that a runtime login does not take the password that is derived from Config.SecretKey, or that what the
	// registry keeps sealed was sealed with another key: other processes have another key, or had one.
	ErrSecretKey = errors.New("the secret key does not fit")
	// ErrRuntimeLogin reports that a runtime login exists but cannot be used as it is, and cannot be set right from here; or that
	// a name is not that of a login of this installation that has tenants.
	ErrRuntimeLogin = errors.New("the runtime login is unfit")
	// ErrNoCluster reports a name that no cluster has.
	ErrNoCluster = errors.New("there is no such cluster")
	// ErrNoRoom reports that a new tenant can be put nowhere: every cluster that comes into question is full or draining.
	ErrNoRoom = errors.New("no cluster has room for another tenant")
	// ErrClusterExists reports the name of a new cluster that another one has.
	ErrClusterExists = errors.New("there is a cluster of that name")
	// ErrClusterUnfit reports that a cluster cannot be used as it is described: the name or the URL is malformed, or the login lacks
	// a right.
	ErrClusterUnfit = errors.New("the cluster is unfit")
	// ErrClusterInUse reports a cluster that cannot be removed, because tenants live there, or because it is the default one.
	ErrClusterInUse = errors.New("the cluster is in use")
	// ErrMoving reports a tenant that is being moved just now.
	ErrMoving = errors.New("the tenant is being moved")
	// ErrUnconfirmed reports a tenant that was moved and whose old copy is still there: confirm that move first.
	ErrUnconfirmed = errors.New("the tenant was moved and its old copy has not been dropped")
	// ErrNoMove reports that there is no move that could be confirmed or cancelled.
	ErrNoMove = errors.New("there is no such move")
	// ErrSamePlace reports a move to the place where the tenant is.
	ErrSamePlace = errors.New("the tenant is there already")
	// ErrOccupied reports a move to a place where there is a schema or a database of the tenant's name, which is not of this move.
	ErrOccupied = errors.New("something there has the tenant's name; if it is of no use, drop it by hand")
	// ErrNoPassword reports a tenant that has no password: it is housed by schema, or gone.
	ErrNoPassword = errors.New("the tenant has no password of its own")
)

// ValidationError says what is wrong with a NewTenant.
type ValidationError struct {
	// Fields maps the name of each field that is wrong (company, contact_name, contact_email, subdomain, strategy) to a sentence that is
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
	codeForeignKeyViolation   = "23503"
	codeUniqueViolation       = "23505"
	codeInsufficientPrivilege = "42501"
	codeObjectInUse           = "55006"
	codeInvalidPassword       = "28P01"
	codeInvalidAuthorization  = "28000"
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
