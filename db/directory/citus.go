package directory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// minCitus is the first major version of Citus that distributes schemas.
const minCitus = 12

// EventNodeMoved says that a tenant's schema was moved to another node of its Citus cluster. The detail names the node.
const EventNodeMoved EventKind = "node.moved"

// ErrNotCitus reports a cluster that is not of the kind CitusCluster.
var ErrNotCitus = errors.New("the cluster is not a Citus cluster")

// checkCitusStrategy refuses what Citus cannot do: its extension and its nodes belong to one database.
func checkCitusStrategy(kind ClusterKind, strategy tenant.Strategy) error {
	if kind == CitusCluster && strategy == tenant.DatabaseStrategy {
		return fmt.Errorf("%w: on a Citus cluster tenants are housed by schema", ErrClusterUnfit)
	}
	return nil
}

// checkCitus makes sure that the database is that of a coordinator with nodes for tenants, and of a version that distributes schemas.
func checkCitus(ctx context.Context, conn *pgx.Conn) error {
	var version string
	err := conn.QueryRow(ctx, "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'").Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: its database lacks the extension Citus; run there, and on each worker: CREATE EXTENSION citus", ErrClusterUnfit)
	}
	if err != nil {
		return err
	}
	head, _, _ := strings.Cut(version, ".")
	if major, err := strconv.Atoi(head); err != nil || major < minCitus {
		return fmt.Errorf("%w: its Citus is version %s, want %d or later", ErrClusterUnfit, version, minCitus)
	}
	var coordinator bool
	var nodes int
	err = conn.QueryRow(ctx, `SELECT pg_catalog.citus_is_coordinator(),
		(SELECT count(*) FROM pg_catalog.pg_dist_node WHERE isactive AND noderole = 'primary' AND shouldhaveshards)`).Scan(&coordinator, &nodes)
	switch {
	case err != nil:
		return err
	case !coordinator:
		return fmt.Errorf("%w: its URL leads to a worker of Citus; name the coordinator", ErrClusterUnfit)
	case nodes == 0:
		return fmt.Errorf("%w: no node of Citus may hold tenants; run there: SELECT citus_add_node(…)", ErrClusterUnfit)
	}
	return nil
}

// openWorkers lets all logins connect to the workers' database again, from which Citus has kept them as lockDown kept them from the
// coordinator's: a query reaches the workers by the login of its tenant's role. Who may connect to a worker at all is for
// pg_hba.conf there to say.
func openWorkers(ctx context.Context, conn *pgx.Conn) error {
	return onWorkers(ctx, conn, "SET citus.enable_ddl_propagation TO off; GRANT CONNECT ON DATABASE "+
		pgx.Identifier{conn.Config().Database}.Sanitize()+" TO PUBLIC")
}

// onWorkers runs statements on each worker, as the administrator, in a transaction of its own each.
func onWorkers(ctx context.Context, conn *pgx.Conn, statements string) error {
	rows, err := conn.Query(ctx, "SELECT nodename, nodeport, success, result FROM pg_catalog.run_command_on_workers($1)", statements)
	if err != nil {
		return err
	}
	var (
		host, result string
		port         uint16
		done         bool
		errs         []error
	)
	_, err = pgx.ForEachRow(rows, []any{&host, &port, &done, &result}, func() error {
		if !done {
			errs = append(errs, fmt.Errorf("worker %s: %s", nodeAddress(host, port), result))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

func nodeAddress(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// createDistributed makes the role and the empty schema as createSQL does, and lets Citus distribute the schema. What it leaves when it
// breaks off, dropSQL removes.
func (h house) createDistributed(ctx context.Context, site *session, version int32) error {
	err := site.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, h.createSQL(version)+";\n"+h.distributeSQL())
		return err
	})
	if err != nil {
		return err
	}
	// Citus takes the rights on tables along, but not those on views, which triggers may read.
	return onWorkers(ctx, site.conn, strings.Join(h.defaultPrivilegesSQL(), "; "))
}

// distributeSQL makes a schema a distributed one. A query reaches the workers by a login of the role's own name, without a password;
// there a trigger finds its tenant's tables by the path that the login begins with.
func (h house) distributeSQL() string {
	schema, role := pgx.Identifier{h.schema}.Sanitize(), pgx.Identifier{h.role}.Sanitize()
	return strings.Join([]string{
		"ALTER ROLE " + role + " LOGIN",
		"ALTER ROLE " + role + " SET search_path = " + schema + ", pg_temp",
		"SELECT pg_catalog.citus_schema_distribute(" + literal(h.schema) + ")",
	}, ";\n")
}

// build makes the house in the database of a cluster of the given kind.
func (h house) build(ctx context.Context, site *session, kind ClusterKind) error {
	version, err := site.q.ServerVersion(ctx)
	if err != nil {
		return err
	}
	if kind == CitusCluster {
		err = h.createDistributed(ctx, site, version)
	} else {
		err = site.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, h.createSQL(version))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("create the schema and the role: %w", err)
	}
	return nil
}

// Node is a node of a Citus cluster that may hold tenants' schemas.
type Node struct {
	// Address is host:port, as Citus knows it.
	Address string
	// Schemas counts the distributed schemas there that have a table, whoever made them.
	Schemas int
}

// Rebalance lets Citus spread the distributed schemas of a cluster over its nodes, by its own strategy, and returns when all is moved:
// which nodes there are then, and what they hold. Tenants are served meanwhile; Citus holds up a schema's writes at the end of its move.
// When ctx ends, Citus is told to stop; what was moved stays. The error is ErrNoCluster if there is no such cluster, and ErrNotCitus if
// it is of another kind.
func (d *Directory) Rebalance(ctx context.Context, cluster string) ([]Node, error) {
	nodes, err := d.rebalance(ctx, cluster)
	if err != nil {
		return nil, fmt.Errorf("rebalance cluster %q: %w", cluster, err)
	}
	return nodes, nil
}

func (d *Directory) rebalance(ctx context.Context, cluster string) ([]Node, error) {
	s, err := d.openCoordinator(ctx, cluster)
	if err != nil {
		return nil, err
	}
	defer s.close()
	// The id of a job that works in the background; null if there is nothing to move.
	var job *int64
	if err := s.conn.QueryRow(ctx, "SELECT pg_catalog.citus_rebalance_start()").Scan(&job); err != nil {
		return nil, err
	}
	if job != nil && *job != 0 {
		if err := d.awaitRebalance(ctx, s, cluster, *job); err != nil {
			return nil, err
		}
	}
	return readNodes(ctx, s.conn)
}

// awaitRebalance waits for a job of Citus's background.
func (d *Directory) awaitRebalance(ctx context.Context, s *session, cluster string, job int64) error {
	_, err := s.conn.Exec(ctx, "SELECT pg_catalog.citus_job_wait($1)", job)
	if err == nil || ctx.Err() == nil {
		return err
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	stopper, stopErr := d.connectTo(stopCtx, cluster) // s was closed with ctx
	if stopErr == nil {
		defer stopper.close()
		_, stopErr = stopper.conn.Exec(stopCtx, "SELECT pg_catalog.citus_job_cancel($1)", job)
	}
	if stopErr != nil {
		return fmt.Errorf("%w (and the rebalance goes on: %w)", err, stopErr)
	}
	return err
}

func readNodes(ctx context.Context, conn *pgx.Conn) ([]Node, error) {
	rows, err := conn.Query(ctx, `SELECT n.nodename, n.nodeport, count(DISTINCT s.schemaid)
		FROM pg_catalog.pg_dist_node n
		LEFT JOIN pg_catalog.pg_dist_placement p ON p.groupid = n.groupid
		LEFT JOIN pg_catalog.pg_dist_shard h ON h.shardid = p.shardid
		LEFT JOIN pg_catalog.pg_dist_partition t ON t.logicalrelid = h.logicalrelid
		LEFT JOIN pg_catalog.pg_dist_schema s ON s.colocationid = t.colocationid
		WHERE n.isactive AND n.noderole = 'primary' AND n.shouldhaveshards
		GROUP BY n.nodeid, n.nodename, n.nodeport ORDER BY n.nodename, n.nodeport`)
	if err != nil {
		return nil, err
	}
	var (
		nodes   []Node
		host    string
		port    uint16
		schemas int
	)
	_, err = pgx.ForEachRow(rows, []any{&host, &port, &schemas}, func() error {
		nodes = append(nodes, Node{Address: nodeAddress(host, port), Schemas: schemas})
		return nil
	})
	return nodes, err
}

// openCoordinator connects to the coordinator of a Citus cluster, as its administrator.
func (d *Directory) openCoordinator(ctx context.Context, cluster string) (*session, error) {
	row, err := d.queries.GetCluster(ctx, cluster)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, ErrNoCluster
	case err != nil:
		return nil, err
	case ClusterKind(row.Kind) != CitusCluster:
		return nil, ErrNotCitus
	}
	return d.connectTo(ctx, cluster)
}

// MoveToNode moves the schema of a tenant on a Citus cluster to another node, host:port as Citus knows it. The tenant is served
// meanwhile; its writes wait at the end. Migrations of the tenant wait, or hold up the move. It is the same placement afterwards, and
// moving to the node where the schema is does nothing. The error is tenant.ErrNotFound if there is no such tenant, ErrNotCitus if its
// cluster is of another kind, and else what Citus says.
func (d *Directory) MoveToNode(ctx context.Context, id tenant.ID, node string) error {
	if err := d.moveToNode(ctx, id, node); err != nil {
		return fmt.Errorf("move tenant %s to the node %s: %w", id, node, err)
	}
	return nil
}

func (d *Directory) moveToNode(ctx context.Context, id tenant.ID, node string) error {
	host, portText, err := net.SplitHostPort(node)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fmt.Errorf("its port: %w", err)
	}
	t, err := d.ByID(ctx, id)
	if err != nil {
		return err
	}
	s, err := d.openCoordinator(ctx, t.Placement.Cluster)
	if err != nil {
		return err
	}
	defer s.close()
	there, err := nodeOf(ctx, s.conn, t.Placement.Schema)
	if err != nil || there == nodeAddress(host, uint16(port)) {
		return err
	}
	_, err = s.conn.Exec(ctx, "SELECT pg_catalog.citus_schema_move($1::text::regnamespace, $2::text, $3::int)",
		pgx.Identifier{t.Placement.Schema}.Sanitize(), host, int32(port))
	if err != nil {
		return err
	}
	return appendEvent(ctx, d.queries, id, EventNodeMoved, nodeAddress(host, uint16(port)))
}

// nodeOf returns the address of the node that holds a distributed schema; "" if it has no tables.
func nodeOf(ctx context.Context, conn *pgx.Conn, schema string) (string, error) {
	var host string
	var port uint16
	err := conn.QueryRow(ctx, `SELECT DISTINCT n.nodename, n.nodeport
		FROM pg_catalog.pg_dist_schema s
		JOIN pg_catalog.pg_dist_partition t ON t.colocationid = s.colocationid
		JOIN pg_catalog.pg_dist_shard h ON h.logicalrelid = t.logicalrelid
		JOIN pg_catalog.pg_dist_placement p ON p.shardid = h.shardid
		JOIN pg_catalog.pg_dist_node n ON n.groupid = p.groupid AND n.noderole = 'primary'
		WHERE s.schemaid = $1::text::regnamespace`, pgx.Identifier{schema}.Sanitize()).Scan(&host, &port)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return nodeAddress(host, port), err
}
