package directory

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// ClusterKind says what a cluster runs.
type ClusterKind string

// The kinds of clusters.
const (
	// PostgresCluster is a PostgreSQL server.
	PostgresCluster ClusterKind = "postgres"
	// CitusCluster is a PostgreSQL server with workers, by the extension Citus.
	CitusCluster ClusterKind = "citus"
)

// NewCluster describes a server, or a database of a server, that is to house tenants.
type NewCluster struct {
	// Name is what the cluster is called, for ever: 1 to 40 lower-case ASCII letters, digits and inner hyphens.
	Name string
	// URL is the administrator's login, in a form that pgx.ParseConfig reads. It connects directly, not through a transaction
	// pooler, and may create roles and schemas. By schema, tenants live in the database that it names, which the login must own; for
	// databases of their own it may create databases. It is stored encrypted.
	URL string
	// Kind is what runs there. Defaults to PostgresCluster. With CitusCluster the URL names the coordinator, whose database has the
	// extension Citus, of version 12 or later, and nodes for tenants; a tenant's schema is a distributed schema. See docs/citus.md for what
	// is to be set up, and for what differs.
	Kind ClusterKind
	// Strategy is how tenants are housed that do not say how. Defaults to tenant.SchemaStrategy.
	Strategy tenant.Strategy
	// MaxTenants is how many living tenants Create puts there at most. Defaults to no limit.
	MaxTenants int
}

// Cluster is a cluster as it stands.
type Cluster struct {
	Name     string
	Kind     ClusterKind
	Strategy tenant.Strategy
	// Tenants counts those that live there: all but the failed and the deleted ones.
	Tenants int
	// MaxTenants is how many there may be; 0 is no limit.
	MaxTenants int
	// Draining says that no new tenant is put there.
	Draining bool
	// Address is host:port/database, without the login. It is "" if the URL cannot be opened.
	Address string
	// Pooler is the host:port of the pooler that its tenants' logins connect through, or "".
	Pooler string
	// Err says why its administrator cannot connect, or that nobody answers at the pooler's address; nil is good.
	Err error
}

// ClusterChange says what is to be different. What is left out stays as it is.
type ClusterChange struct {
	// URL is another password or address. The database's name must be the same, and, while tenants live there, so must the login, which
	// owns their schemas and databases; and most of them must be found at the new address.
	URL string
	// Strategy is how tenants are housed that do not say how. It moves nobody.
	Strategy tenant.Strategy
	// MaxTenants is how many living tenants Create puts there at most; 0 is no limit. It moves nobody.
	MaxTenants *int
	// Pooler is the URL of a transaction pooler such as PgBouncer in front of the cluster, as postgres://host:port with options but
	// without a login; "" is none. From then on what LoginConn returns for its tenants leads there, with the logins and databases that
	// they have; RuntimeConn's result too, for the default cluster, which programs ask for when they start. Administrators go on to
	// connect directly. It is tried, and must lead to the same server.
	Pooler *string
	// LostKey says that the URL that there is cannot be opened any more, because its key is lost. Otherwise that is ErrSecretKey: with a
	// key that other processes do not have, a new URL would take the cluster from them.
	LostKey bool
}

// clusterName is the rule of the registry.
var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// AddCluster connects to a cluster, makes sure that it can house tenants, closes its database to everybody as Migrate does for
// the control database, and adds it. From then on Create may put tenants there. What other databases of the server are open to
// every login is logged as a warning, since tenants' logins can connect to them too.
//
// The error is ErrClusterUnfit if something is wrong with the description or the login's rights, ErrClusterExists if the name is
// taken, and else that the server cannot be reached. No error shows the URL or its password.
func (d *Directory) AddCluster(ctx context.Context, n NewCluster) error {
	if err := d.addCluster(ctx, n); err != nil {
		return fmt.Errorf("add cluster %q: %w", n.Name, err)
	}
	return nil
}

func (d *Directory) addCluster(ctx context.Context, n NewCluster) error {
	setDefault(&n.Kind, PostgresCluster)
	setDefault(&n.Strategy, tenant.SchemaStrategy)
	if err := d.cfg.validateSecretKey(); err != nil {
		return err
	}
	if err := n.check(); err != nil {
		return err
	}
	if err := d.checkKey(ctx); err != nil {
		return err
	}
	admin, err := parseURL(n.URL)
	if err != nil {
		return err
	}
	switch _, err := d.queries.GetCluster(ctx, n.Name); {
	case err == nil:
		return ErrClusterExists
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	if err := d.checkNoTwin(ctx, n.Name, admin); err != nil {
		return err
	}
	if err := d.prepareCluster(ctx, admin, n.Kind, n.Strategy); err != nil {
		return err
	}
	sealed, err := d.sealer.seal(ownerOfURL(n.Name), []byte(n.URL))
	if err != nil {
		return err
	}
	added, err := d.queries.InsertCluster(ctx, controlsql.InsertClusterParams{
		Name: n.Name, Kind: string(n.Kind), Strategy: n.Strategy, MaxTenants: limit(n.MaxTenants),
		EncryptedUrl: sealed, DatabaseName: &admin.Database,
	})
	if err == nil && added == 0 { // by somebody else, just now
		err = ErrClusterExists
	}
	return err
}

func (n NewCluster) check() error {
	switch {
	case !clusterName.MatchString(n.Name):
		return fmt.Errorf("%w: a name is 1 to 40 lower-case letters, digits and inner hyphens", ErrClusterUnfit)
	case n.Kind != PostgresCluster && n.Kind != CitusCluster:
		return fmt.Errorf("%w: its kind is %q, want %s or %s", ErrClusterUnfit, n.Kind, PostgresCluster, CitusCluster)
	}
	if err := checkHousing(n.Strategy, n.MaxTenants); err != nil {
		return err
	}
	return checkCitusStrategy(n.Kind, n.Strategy)
}

func checkHousing(strategy tenant.Strategy, maxTenants int) error {
	switch {
	case strategy != tenant.SchemaStrategy && strategy != tenant.DatabaseStrategy:
		return fmt.Errorf("%w: its strategy is %q, want %s or %s", ErrClusterUnfit,
			strategy, tenant.SchemaStrategy, tenant.DatabaseStrategy)
	case maxTenants < 0 || maxTenants > math.MaxInt32:
		return fmt.Errorf("%w: %d tenants at most", ErrClusterUnfit, maxTenants)
	}
	return nil
}

// limit is a bound as the registry has it.
func limit(n int) *int32 {
	if n == 0 {
		return nil
	}
	bound := int32(n) // checkHousing has seen it
	return &bound
}

// parseURL reads an administrator's URL. No error shows any of it: what cannot be read may be a part of the password.
func parseURL(url string) (*pgx.ConnConfig, error) {
	cc, err := pgx.ParseConfig(url)
	// An @ in the host, but for a socket's, or in the database is the end of a password with an @ in it.
	if err != nil || url == "" || strings.LastIndexByte(cc.Host, '@') > 0 || strings.ContainsAny(cc.Database, "@") {
		return nil, fmt.Errorf("%w: its URL cannot be read; write it as postgres://user:password@host:port/database, "+
			"with %%40 for @, and %%2F for /, in the password", ErrClusterUnfit)
	}
	if cc.Database == "" {
		return nil, fmt.Errorf("%w: its URL names no database", ErrClusterUnfit)
	}
	return cc, nil
}

// Clusters reads all clusters, by name, with how full they are, and tries to connect to each, all at once and for a few seconds
// at most. That one cannot be reached is in its Err.
func (d *Directory) Clusters(ctx context.Context) ([]Cluster, error) {
	rows, err := d.queries.ListClusters(ctx)
	if err != nil {
		return nil, fmt.Errorf("directory: list clusters: %w", err)
	}
	living, err := countLiving(ctx, d.queries)
	if err != nil {
		return nil, fmt.Errorf("directory: count tenants: %w", err)
	}
	clusters := make([]Cluster, len(rows))
	var tries sync.WaitGroup
	for i, row := range rows {
		clusters[i] = Cluster{
			Name: row.Name, Kind: ClusterKind(row.Kind), Strategy: row.Strategy, Tenants: int(living[row.Name]), Draining: row.Draining,
			Pooler: poolerAddress(row.PoolerUrl),
		}
		if limited(row) {
			clusters[i].MaxTenants = int(*row.MaxTenants)
		}
		tries.Go(func() { clusters[i].Address, clusters[i].Err = d.tryCluster(ctx, row) })
	}
	tries.Wait()
	return clusters, nil
}

func (d *Directory) tryCluster(ctx context.Context, row controlsql.Cluster) (address string, err error) {
	admin, err := d.administratorOf(row)
	if err != nil {
		return "", err
	}
	address = net.JoinHostPort(admin.Host, strconv.Itoa(int(admin.Port))) + "/" + admin.Database
	s, err := dialAdministrator(ctx, admin)
	if err != nil {
		return address, err
	}
	s.close()
	if pooler := poolerAddress(row.PoolerUrl); pooler != "" {
		conn, err := (&net.Dialer{Timeout: answerTime}).DialContext(ctx, "tcp", pooler)
		if err != nil {
			return address, fmt.Errorf("the pooler: %w", err)
		}
		_ = conn.Close()
	}
	return address, nil
}

// SetDraining says whether new tenants are kept from a cluster. Those that are there stay. The error is ErrNoCluster if there is
// none of that name.
func (d *Directory) SetDraining(ctx context.Context, name string, draining bool) error {
	n, err := d.queries.SetClusterDraining(ctx, controlsql.SetClusterDrainingParams{Name: name, Draining: draining})
	if err == nil && n == 0 {
		err = ErrNoCluster
	}
	if err != nil {
		return fmt.Errorf("cluster %q: %w", name, err)
	}
	return nil
}

// UpdateCluster changes a cluster. A new URL is tried as AddCluster does, and from then on every process uses it for new
// connections. The default cluster is reached as the registry is and has no URL. The errors are those of AddCluster, and
// ErrNoCluster if there is none of that name.
func (d *Directory) UpdateCluster(ctx context.Context, name string, change ClusterChange) error {
	if err := d.updateCluster(ctx, name, change); err != nil {
		return fmt.Errorf("cluster %q: %w", name, err)
	}
	return nil
}

func (d *Directory) updateCluster(ctx context.Context, name string, change ClusterChange) error {
	if change.URL != "" || change.Pooler != nil {
		if err := d.cfg.validateSecretKey(); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		q := d.queries.WithTx(tx)
		row, err := q.GetClusterForUpdate(ctx, name)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNoCluster
		}
		if err != nil {
			return err
		}
		if err := d.alterCluster(ctx, &row, change); err != nil {
			return err
		}
		return q.UpdateCluster(ctx, controlsql.UpdateClusterParams{
			Name: name, Strategy: row.Strategy, MaxTenants: row.MaxTenants, EncryptedUrl: row.EncryptedUrl, PoolerUrl: row.PoolerUrl,
		})
	})
}

// alterCluster applies a change to a row, and makes sure that the cluster can be used so.
func (d *Directory) alterCluster(ctx context.Context, row *controlsql.Cluster, change ClusterChange) error {
	if change.MaxTenants != nil {
		if err := checkHousing(row.Strategy, *change.MaxTenants); err != nil {
			return err
		}
		row.MaxTenants = limit(*change.MaxTenants)
	}
	if change.Strategy != "" {
		if err := checkHousing(change.Strategy, 0); err != nil {
			return err
		}
		if err := checkCitusStrategy(ClusterKind(row.Kind), change.Strategy); err != nil {
			return err
		}
		row.Strategy = change.Strategy
	}
	if change.Pooler != nil {
		if change.URL != "" {
			return fmt.Errorf("%w: the URL and the pooler are changed one after the other, since each is tried", ErrClusterUnfit)
		}
		if err := d.changePooler(ctx, row, *change.Pooler); err != nil {
			return err
		}
	}
	switch {
	case change.URL != "":
		return d.changeURL(ctx, row, change)
	case change.Strategy != "":
		admin, err := d.administratorOf(*row)
		if err != nil {
			return err
		}
		s, err := dialAdministrator(ctx, admin)
		if err != nil {
			return err
		}
		defer s.close()
		return checkAdministrator(ctx, s.q, row.Strategy)
	}
	return nil
}

func (d *Directory) changeURL(ctx context.Context, row *controlsql.Cluster, change ClusterChange) error {
	if row.Name == tenant.DefaultCluster {
		return fmt.Errorf("%w: the default cluster is reached as the registry is", ErrClusterUnfit)
	}
	admin, err := parseURL(change.URL)
	if err != nil {
		return err
	}
	if _, err := d.sealer.open(ownerOfURL(row.Name), row.EncryptedUrl); err != nil && !change.LostKey {
		return err
	}
	if admin.Database != *row.DatabaseName {
		return fmt.Errorf("%w: tenants live in its database %q, the URL names %q", ErrClusterUnfit, *row.DatabaseName, admin.Database)
	}
	if err := d.checkTenantsAt(ctx, row.Name, admin); err != nil {
		return err
	}
	if err := d.checkNoTwin(ctx, row.Name, admin); err != nil {
		return err
	}
	if err := d.prepareCluster(ctx, admin, ClusterKind(row.Kind), row.Strategy); err != nil {
		return err
	}
	row.EncryptedUrl, err = d.sealer.seal(ownerOfURL(row.Name), []byte(change.URL))
	return err
}

// RemoveCluster forgets a cluster on which nobody lives. What leasehold made there for all tenants stays: runtime logins without
// rights. The error is ErrClusterInUse if tenants live there, or if it is the default one, and ErrNoCluster if there is none of
// that name.
func (d *Directory) RemoveCluster(ctx context.Context, name string) error {
	if name == tenant.DefaultCluster {
		return fmt.Errorf("cluster %q: %w: it holds the registry", name, ErrClusterInUse)
	}
	n, err := d.queries.DeleteCluster(ctx, name)
	switch {
	case sqlState(err) == codeForeignKeyViolation:
		err = fmt.Errorf("%w: tenants live there", ErrClusterInUse)
	case err == nil && n == 0:
		err = ErrNoCluster
	}
	if err != nil {
		return fmt.Errorf("cluster %q: %w", name, err)
	}
	return nil
}
