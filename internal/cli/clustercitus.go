package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"text/tabwriter"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

// clusterCitus are the commands for clusters of the kind citus.
type clusterCitus struct {
	Rebalance  clusterRebalanceCmd  `cmd:"" help:"Spread the tenants of a Citus cluster over its nodes, while they are used."`
	MoveTenant clusterMoveTenantCmd `cmd:"" name:"move-tenant" help:"Move a tenant to another node of its Citus cluster, while it is used."`
}

type clusterRebalanceCmd struct {
	registryFlags

	Name string `arg:"" help:"The cluster's name."`
}

type nodeView struct {
	Address string `json:"address"`
	Schemas int    `json:"schemas"`
}

// Run rebalances the cluster.
func (c *clusterRebalanceCmd) Run(ctx context.Context, r *runner) error {
	dir, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	nodes, err := dir.Rebalance(ctx, c.Name)
	if err != nil {
		return err
	}
	views := make([]nodeView, len(nodes))
	for i, n := range nodes {
		views[i] = nodeView(n)
	}
	return r.print(views, func(w io.Writer) {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "NODE\tSCHEMAS")
		for _, v := range views {
			_, _ = fmt.Fprintf(table, "%s\t%d\n", v.Address, v.Schemas)
		}
		_ = table.Flush()
	})
}

type clusterMoveTenantCmd struct {
	registeredTenant

	ToNode string `name:"to-node" required:"" placeholder:"HOST:PORT" help:"The node, as Citus knows it; leasehold cluster rebalance shows which there are."`
}

// Run moves the tenant.
func (c *clusterMoveTenantCmd) Run(ctx context.Context, r *runner) error {
	if err := checkNode(c.ToNode); err != nil {
		return err
	}
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	return moveToNode(ctx, r, dir, t, c.ToNode)
}

// moveToNode moves a tenant to another node of its Citus cluster.
func moveToNode(ctx context.Context, r *runner, dir *directory.Directory, t *tenant.Tenant, node string) error {
	if err := dir.MoveToNode(ctx, t.ID, node); err != nil {
		return err
	}
	return r.print(map[string]string{"tenant": t.ID.String(), "node": node}, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "%s is on the node %s\n", t.Slug, node)
	})
}

// checkNode refuses what is not host:port.
func checkNode(node string) error {
	host, port, err := net.SplitHostPort(node)
	if err == nil && host != "" {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host == "" {
		return &config.Error{Setting: "--to-node", Err: fmt.Errorf("is %q", node), Hint: "write the node's host:port"}
	}
	return nil
}
