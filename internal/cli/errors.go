package cli

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// lockNotAvailable is the SQLSTATE of a statement that ran out of lock_timeout.
const lockNotAvailable = "55P03"

// checkURL is the hint where a server cannot be connected to.
const checkURL = "check LEASEHOLD_DATABASE_URL or, of another cluster, its URL and pooler"

// describe puts an error and what to do about it on one line.
func describe(err error) string {
	text := err.Error()
	if failed := (*migrate.FailedError)(nil); errors.As(err, &failed) {
		text = describeFailed(failed)
	}
	text = oneLine(text)
	if h := hint(err); h != "" {
		text += " — " + h
	}
	return text
}

// oneLine joins lines. What repeats the line before it is left out: each attempt to connect has its line.
func oneLine(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	return strings.ReplaceAll(strings.Join(slices.Compact(lines), "; "), ":; ", ": ")
}

// describeFailed names a cause as well, which FailedError leaves to its causes.
func describeFailed(e *migrate.FailedError) string {
	first := e.Failed[0].Err.Error()
	switch {
	case e.Total == 1:
		return first
	case len(e.Failed) == 1:
		return fmt.Sprintf("1 of %d tenants failed: %s", e.Total, first)
	}
	return fmt.Sprintf("%d of %d tenants failed; the first: %s", len(e.Failed), e.Total, first)
}

// isUsage reports whether the command line itself was wrong.
func isUsage(err error) bool {
	var parse *kong.ParseError
	var setting *config.Error
	var invalid *directory.ValidationError
	var slug *tenant.SlugError
	var domain *directory.DomainError
	return errors.As(err, &parse) || errors.As(err, &setting) || errors.As(err, &invalid) || errors.As(err, &slug) || errors.As(err, &domain) ||
		errors.Is(err, migrate.ErrBadName)
}

// hint says what to do about an error; it is empty where the error says it already.
func hint(err error) string {
	var parse *kong.ParseError
	var setting *config.Error
	var inUse *pgserver.InUseError
	var connect *pgconn.ConnectError
	var refused *pgconn.PgError
	var moved *tenant.MovedError
	var unverified *directory.UnverifiedError
	switch {
	case errors.As(err, &setting):
		return setting.Hint
	case errors.As(err, &inUse):
		if inUse.Resource == "data folder" {
			return "stop it, or use another folder: --data DIR"
		}
		return inUse.Hint()
	case errors.As(err, &parse):
		return helpCommand(parse) + " shows what there is"
	case errors.Is(err, directory.ErrNotMigrated):
		return "run: leasehold migrate control"
	case errors.Is(err, directory.ErrSecretKey):
		return "give every process the same LEASEHOLD_SECRET_KEY; to change it for all, run: leasehold migrate control --set-secret-key, with the old one as LEASEHOLD_OLD_SECRET_KEY"
	case errors.Is(err, directory.ErrNoRoom):
		return "add a cluster, raise the bound of one, or let tenants in again (leasehold cluster drain NAME --undo): leasehold cluster list shows them"
	case errors.Is(err, directory.ErrNoCluster):
		return "leasehold cluster list shows which there are"
	case errors.Is(err, directory.ErrNotCitus):
		return "leasehold cluster list shows the kinds"
	case errors.Is(err, directory.ErrClusterExists):
		return "choose another name, or change that one: leasehold cluster set"
	case errors.Is(err, directory.ErrClusterInUse):
		return "a cluster on which nobody lives can be removed; leasehold cluster drain keeps new tenants away"
	case errors.Is(err, directory.ErrUnconfirmed):
		return "drop the old copy first: leasehold tenant move SUBDOMAIN --confirm"
	case errors.Is(err, directory.ErrMoving):
		return "wait until that is done, or end it: leasehold tenant move SUBDOMAIN --cancel"
	case errors.Is(err, directory.ErrNoMove):
		return "leasehold tenant show says what was done; a tenant that has moved can be moved back"
	case errors.Is(err, directory.ErrHeld):
		return "SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start LIMIT 5 shows the oldest ones: run it again when they are over"
	case errors.Is(err, directory.ErrBusy):
		return "run it again when that is over"
	case errors.Is(err, directory.ErrBadExport):
		return "name a file that leasehold tenant export has written"
	case errors.Is(err, directory.ErrNoPassword):
		return "leasehold tenant show says how it is housed"
	case errors.Is(err, directory.ErrSlugTaken):
		return "choose another subdomain"
	case errors.Is(err, directory.ErrDomainTaken):
		return "remove it there first, if it is not the other tenant's any more: leasehold tenant domain remove"
	case errors.Is(err, directory.ErrNoDomain):
		return "leasehold tenant domain list shows which it has"
	case errors.Is(err, directory.ErrTooManyDomains):
		return "remove one that it does not use: leasehold tenant domain remove"
	case errors.Is(err, directory.ErrPurging):
		return "wait until it is done: leasehold tenant purge --dry-run shows what is left"
	case errors.As(err, &unverified):
		return fmt.Sprintf("it must hold %s; a new record may take a while until everybody sees it", unverified.Domain.Token)
	case errors.As(err, &moved):
		return "use " + string(moved.To)
	case errors.Is(err, tenant.ErrNotFound):
		return "leasehold tenant list shows which there are"
	case errors.Is(err, migrate.ErrForeign):
		return "name the folder of this product's migrations: --migrations DIR"
	case errors.Is(err, migrate.ErrNoFiles):
		return "leasehold migrate new NAME makes one"
	case lostToALock(err):
		return "another transaction holds a lock on what this needs; SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start LIMIT 5 " +
			"shows the oldest ones: run it again when that is over"
	case errors.As(err, &connect) && errors.As(err, &refused):
		return checkURL
	case errors.As(err, &connect):
		return checkURL + ", and that PostgreSQL is running there"
	}
	return ""
}

// lostToALock reports whether a tenant was given up because somebody else held a lock for too long.
func lostToALock(err error) bool {
	var e *migrate.Error
	var refused *pgconn.PgError
	return errors.As(err, &e) && errors.As(e, &refused) && refused.Code == lockNotAvailable
}

// helpCommand is what shows the help of the command that was not understood.
func helpCommand(e *kong.ParseError) string {
	if e.Context != nil {
		if node := e.Context.Selected(); node != nil {
			return node.FullPath() + " --help"
		}
	}
	return "leasehold --help"
}

// listenError says why we cannot listen on an address and, if somebody else has it, who.
func listenError(address, setting, flag string, err error) error {
	var malformed *net.AddrError
	switch {
	case errors.As(err, &malformed):
		return &config.Error{Setting: setting, Err: fmt.Errorf("%q is no address: %s", address, malformed.Err), Hint: "write it as host:port, such as 127.0.0.1:8080"}
	case !errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("cannot listen on %s: %w — choose another address: %s ADDR", address, err, flag)
	}
	by, stop := "", "stop what uses it"
	if _, port, splitErr := net.SplitHostPort(address); splitErr == nil {
		if n, convErr := strconv.Atoi(port); convErr == nil {
			if pid, command := pgserver.PortHolder(n); pid != 0 {
				by, stop = fmt.Sprintf(" by process %d (%s)", pid, command), "stop it"
			}
		}
	}
	return fmt.Errorf("the address %s is in use%s — %s, or choose another: %s ADDR", address, by, stop, flag)
}
