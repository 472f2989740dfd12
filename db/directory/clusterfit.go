package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// prepareCluster makes sure that an administrator may do what housing tenants takes, and closes the database.
func (d *Directory) prepareCluster(ctx context.Context, admin *pgx.ConnConfig, kind ClusterKind, strategy tenant.Strategy) error {
	s, err := dialAdministrator(ctx, admin)
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.q.GetSchemaOwner(ctx, schemaName); err == nil {
		return fmt.Errorf("%w: the database holds a registry; name another one of that server", ErrClusterUnfit)
	} else if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if err := checkAdministrator(ctx, s.q, strategy); err != nil {
		return err
	}
	if kind == CitusCluster {
		if err := checkCitus(ctx, s.conn); err != nil {
			return err
		}
	}
	err = s.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if err := q.LockTransaction(ctx, privilegesLock); err != nil {
			return err
		}
		return lockDown(ctx, q, tx, d.cfg.Logger)
	})
	if err == nil && kind == CitusCluster {
		err = openWorkers(ctx, s.conn)
	}
	if err != nil {
		return err
	}
	open, err := s.q.ListOpenDatabases(ctx)
	if err == nil && len(open) > 0 {
		d.cfg.Logger.WarnContext(ctx, "every login of the server, those of tenants too, may connect to these databases; "+
			"revoke CONNECT on them from PUBLIC", "databases", strings.Join(open, ", "))
	}
	return err
}

func checkAdministrator(ctx context.Context, q *controlsql.Queries, strategy tenant.Strategy) error {
	may, err := q.GetAdministrator(ctx)
	if err != nil {
		return err
	}
	byDatabase := strategy == tenant.DatabaseStrategy
	switch {
	case !may.CreatesRoles:
		return fmt.Errorf("%w: its login may not create roles; run: ALTER ROLE … CREATEROLE", ErrClusterUnfit)
	case byDatabase && !may.CreatesDatabases:
		return fmt.Errorf("%w: its login may not create databases; run: ALTER ROLE … CREATEDB", ErrClusterUnfit)
	case !byDatabase && !may.CreatesSchemas:
		return fmt.Errorf("%w: its login may not create schemas; make it the owner of the database", ErrClusterUnfit)
	case !byDatabase && !may.OwnsDatabase:
		return fmt.Errorf("%w: its login does not own the database, and so cannot close it to everybody", ErrClusterUnfit)
	}
	return nil
}

// checkNoTwin refuses a database that is another cluster's already: its tenants could be moved onto themselves. Two logins see that they
// are in one database by a lock that only one of them gets. A cluster that cannot be reached is not compared.
func (d *Directory) checkNoTwin(ctx context.Context, name string, admin *pgx.ConnConfig) error {
	rows, err := d.queries.ListClusters(ctx)
	if err != nil {
		return err
	}
	here, err := dialAdministrator(ctx, admin)
	if err != nil {
		return err
	}
	defer here.close()
	key := lockKey("twin " + rand.Text())
	if _, err := here.q.TryLock(ctx, key); err != nil {
		return err
	}
	for _, row := range rows {
		if row.Name == name || row.Name == tenant.DefaultCluster { // whose database is refused because it holds the registry
			continue
		}
		switch other, err := d.sharesLock(ctx, row, key); {
		case err != nil:
			d.cfg.Logger.WarnContext(ctx, "whether two clusters are the same database was not seen", "cluster", name, "other", row.Name, "error", err)
		case other:
			return fmt.Errorf("%w: its database is that of the cluster %q already", ErrClusterUnfit, row.Name)
		}
	}
	return nil
}

// sharesLock reports whether a lock that somebody has is seen in a cluster's database.
func (d *Directory) sharesLock(ctx context.Context, row controlsql.Cluster, key int64) (bool, error) {
	admin, err := d.administratorOf(row)
	if err != nil {
		return false, err
	}
	there, err := dialAdministrator(ctx, admin)
	if err != nil {
		return false, err
	}
	defer there.close()
	free, err := there.q.TryLock(ctx, key)
	return !free, err
}

// checkedTenants is how many tenants of a cluster are looked for at its new address.
const checkedTenants = 20

// checkTenantsAt makes sure that the administrator of a new URL finds the cluster's tenants there, and owns what they live in. One
// that was dropped by hand is no reason to refuse it, so that most are enough.
func (d *Directory) checkTenantsAt(ctx context.Context, cluster string, admin *pgx.ConnConfig) error {
	rows, err := d.queries.ListSomeHoused(ctx, controlsql.ListSomeHousedParams{Cluster: cluster, MaxRows: checkedTenants})
	if err != nil || len(rows) == 0 {
		return err
	}
	var names controlsql.ListHouseOwnersParams
	for _, row := range rows {
		if row.Strategy == tenant.DatabaseStrategy {
			names.Databases = append(names.Databases, row.DatabaseName)
		} else {
			names.Schemas = append(names.Schemas, row.SchemaName)
		}
	}
	s, err := dialAdministrator(ctx, admin)
	if err != nil {
		return err
	}
	defer s.close()
	owners, err := s.q.ListHouseOwners(ctx, names)
	if err != nil {
		return err
	}
	if 2*len(owners) <= len(rows) {
		return fmt.Errorf("%w: the URL leads to another server: of %d of the cluster's tenants %d are there",
			ErrClusterUnfit, len(rows), len(owners))
	}
	for _, owner := range owners {
		if owner != admin.User {
			return fmt.Errorf("%w: what its tenants live in belongs to the login %q; what %q creates there they could not use",
				ErrClusterUnfit, owner, admin.User)
		}
	}
	return nil
}
