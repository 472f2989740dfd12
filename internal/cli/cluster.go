package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

// clusterCmd is leasehold cluster.
type clusterCmd struct {
	Add    clusterAddCmd    `cmd:"" help:"Add a server, or a database of one, that is to house tenants."`
	List   clusterListCmd   `cmd:"" help:"List the clusters, how full they are, and whether they can be reached."`
	Set    clusterSetCmd    `cmd:"" help:"Change a cluster's URL, strategy, bound or pooler."`
	Drain  clusterDrainCmd  `cmd:"" help:"Keep new tenants from a cluster."`
	Remove clusterRemoveCmd `cmd:"" help:"Forget a cluster on which nobody lives."`
	clusterCitus
}

// registryFlags are the flags of commands on clusters and passwords.
type registryFlags struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`
}

func (f registryFlags) open(ctx context.Context, r *runner) (*directory.Directory, error) {
	secret, err := keysOf(f.Secret)
	if err != nil {
		return nil, err
	}
	return openDirectory(ctx, f.Database, secret, nil, r.quiet(ctx))
}

// urlSetting names the variable for a cluster's URL.
const urlSetting = "LEASEHOLD_CLUSTER_URL"

// maxURLBytes bounds what is read of standard input.
const maxURLBytes = 16 << 10

// readURL returns the URL that was given, or what standard input says for "-".
func (r *runner) readURL(url string) (string, error) {
	if url != "-" {
		return url, nil
	}
	var text []byte
	if r.In != nil {
		var err error
		if text, err = io.ReadAll(io.LimitReader(r.In, maxURLBytes)); err != nil {
			return "", fmt.Errorf("read the URL from standard input: %w", err)
		}
	}
	if url = strings.TrimSpace(string(text)); url == "" {
		return "", &config.Error{Setting: "standard input", Err: errors.New("is empty"), Hint: "write the cluster's postgres:// URL there"}
	}
	return url, nil
}

type clusterAddCmd struct {
	registryFlags

	Name       string `arg:"" help:"What to call it: lower-case letters, digits and inner hyphens, at most 40."`
	URL        string `arg:"" optional:"" name:"url" env:"LEASEHOLD_CLUSTER_URL" help:"The administrator's login there: postgres://user:password@host:port/database, with CREATEROLE, direct and not through a transaction pooler. It owns the database, or has CREATEDB for databases of tenants' own. Other users of this machine can see it as an argument: prefer the variable LEASEHOLD_CLUSTER_URL, or - for standard input."`
	Kind       string `enum:"postgres,citus" default:"postgres" help:"What runs there: ${enum} (${default})."`
	Strategy   string `enum:"schema,database" default:"schema" help:"How tenants are housed there that do not say how: ${enum} (${default})."`
	MaxTenants *int   `placeholder:"N" help:"How many tenants are put there at most. Defaults to no limit."`
}

// Run adds the cluster.
func (c *clusterAddCmd) Run(ctx context.Context, r *runner) error {
	most, err := atLeastOne("--max-tenants", c.MaxTenants)
	if err != nil {
		return err
	}
	url, err := r.readURL(c.URL)
	if err != nil {
		return err
	}
	if url == "" {
		return &config.Error{Setting: urlSetting, Err: errors.New("is not set"), Hint: "set it to the administrator's postgres:// URL there, or write - and the URL on standard input"}
	}
	dir, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.AddCluster(ctx, directory.NewCluster{
		Name: c.Name, URL: url, Kind: directory.ClusterKind(c.Kind), Strategy: tenant.Strategy(c.Strategy), MaxTenants: most,
	}); err != nil {
		return err
	}
	return r.done(c.Name, "added cluster "+c.Name)
}

// done prints that something was done to a cluster.
func (r *runner) done(cluster, text string) error {
	return r.print(map[string]string{"cluster": cluster}, func(w io.Writer) { _, _ = fmt.Fprintln(w, text) })
}

type clusterListCmd struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`
}

type clusterView struct {
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	Strategy   string `json:"strategy"`
	Tenants    int    `json:"tenants"`
	MaxTenants int    `json:"max_tenants,omitempty"` // 0 is no limit
	Draining   bool   `json:"draining"`
	Address    string `json:"address,omitempty"`
	Pooler     string `json:"pooler,omitempty"`
	Reachable  bool   `json:"reachable"`
	Error      string `json:"error,omitempty"`
}

func newClusterView(c directory.Cluster) clusterView {
	view := clusterView{
		Name: c.Name, Kind: string(c.Kind), Strategy: string(c.Strategy), Tenants: c.Tenants, MaxTenants: c.MaxTenants, Draining: c.Draining,
		Address: c.Address, Pooler: c.Pooler, Reachable: c.Err == nil,
	}
	if c.Err != nil {
		view.Error = oneLine(c.Err.Error())
	}
	return view
}

// fill is how full the cluster is.
func (v clusterView) fill() string {
	if v.MaxTenants == 0 {
		return fmt.Sprint(v.Tenants)
	}
	return fmt.Sprintf("%d of %d (%d%%)", v.Tenants, v.MaxTenants, 100*v.Tenants/v.MaxTenants)
}

// place is where it is, and how its tenants' logins get there.
func (v clusterView) place() string {
	address := cmp.Or(v.Address, "-")
	if v.Pooler == "" {
		return address
	}
	return address + " through " + v.Pooler
}

func (v clusterView) state() string {
	switch {
	case !v.Reachable:
		return "unreachable"
	case v.Draining:
		return "draining"
	case v.MaxTenants > 0 && v.Tenants >= v.MaxTenants:
		return "full"
	}
	return "open"
}

// Run lists the clusters.
func (c *clusterListCmd) Run(ctx context.Context, r *runner) error {
	secret, err := optionalKeysOf(c.Secret)
	if err != nil {
		return err
	}
	dir, err := openDirectory(ctx, c.Database, secret, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	clusters, err := dir.Clusters(ctx)
	if err != nil {
		return err
	}
	views := make([]clusterView, len(clusters))
	for i, cluster := range clusters {
		views[i] = newClusterView(cluster)
	}
	if err := r.print(views, func(w io.Writer) {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "NAME\tKIND\tSTRATEGY\tTENANTS\tSTATE\tADDRESS")
		for _, v := range views {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Name, v.Kind, v.Strategy, v.fill(), v.state(), v.place())
		}
		_ = table.Flush()
	}); err != nil {
		return err
	}
	for _, v := range views {
		if !v.Reachable {
			_, _ = fmt.Fprintf(r.Err, "leasehold: %s: %s\n", v.Name, v.Error)
		}
	}
	return nil
}

type clusterSetCmd struct {
	registryFlags

	Name       string  `arg:"" help:"The cluster's name."`
	URL        string  `name:"url" placeholder:"URL" help:"Another login, password or address, with the same database. Other users of this machine can see it as an argument: prefer - for standard input."`
	Strategy   string  `enum:"schema,database," default:"" placeholder:"schema|database" help:"How tenants are housed there from now on that do not say how."`
	MaxTenants *maxInt `placeholder:"N|none" help:"How many tenants are put there at most."`
	Pooler     *string `placeholder:"URL|none" help:"A transaction pooler such as PgBouncer, through which the tenants' logins connect: postgres://host:port, without a login."`
	LostKey    bool    `help:"The secret key that the URL was encrypted with is lost."`
}

// maxInt is a bound, or none, which is 0.
type maxInt int

// UnmarshalText reads it.
func (n *maxInt) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*n = 0
		return nil
	}
	if _, err := fmt.Sscanf(string(text), "%d", (*int)(n)); err != nil || *n < 1 || fmt.Sprint(int(*n)) != string(text) {
		return fmt.Errorf("%q is no bound: write 1 or more, or none", text)
	}
	return nil
}

// Run changes the cluster.
func (c *clusterSetCmd) Run(ctx context.Context, r *runner) error {
	url, err := r.readURL(c.URL)
	if err != nil {
		return err
	}
	change := directory.ClusterChange{URL: url, Strategy: tenant.Strategy(c.Strategy), MaxTenants: (*int)(c.MaxTenants), LostKey: c.LostKey}
	if c.Pooler != nil {
		if *c.Pooler == "" {
			return &config.Error{Setting: "--pooler", Err: errors.New("is empty"), Hint: "write postgres://host:port, or none"}
		}
		change.Pooler = new(strings.TrimPrefix(*c.Pooler, "none"))
	}
	if change.URL == "" && change.Strategy == "" && change.MaxTenants == nil && change.Pooler == nil {
		return &config.Error{Setting: "cluster set", Err: errors.New("nothing is to be changed"), Hint: "give it --url, --strategy, --max-tenants or --pooler"}
	}
	dir, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.UpdateCluster(ctx, c.Name, change); err != nil {
		return err
	}
	return r.done(c.Name, "changed cluster "+c.Name)
}

type clusterDrainCmd struct {
	config.Database `group:"Database"`

	Name string `arg:"" help:"The cluster's name."`
	Undo bool   `help:"Let new tenants in again."`
}

// Run drains the cluster.
func (c *clusterDrainCmd) Run(ctx context.Context, r *runner) error {
	dir, err := openDirectory(ctx, c.Database, keys{}, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.SetDraining(ctx, c.Name, !c.Undo); err != nil {
		return err
	}
	text := fmt.Sprintf("no new tenants are put on %s; those that are there stay", c.Name)
	if c.Undo {
		text = "new tenants may be put on " + c.Name
	}
	return r.done(c.Name, text)
}

type clusterRemoveCmd struct {
	config.Database `group:"Database"`

	Name string `arg:"" help:"The cluster's name."`
}

// Run removes the cluster.
func (c *clusterRemoveCmd) Run(ctx context.Context, r *runner) error {
	dir, err := openDirectory(ctx, c.Database, keys{}, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.RemoveCluster(ctx, c.Name); err != nil {
		return err
	}
	return r.done(c.Name, "removed cluster "+c.Name)
}
