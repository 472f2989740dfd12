package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

// tenantTransfer are the commands that take a tenant's data elsewhere.
type tenantTransfer struct {
	Export tenantExportCmd `cmd:"" help:"Write all data of a tenant to a file."`
	Import tenantImportCmd `cmd:"" help:"Make a new tenant out of such a file."`
	Move   tenantMoveCmd   `cmd:"" help:"Move a tenant to another server, into a database of its own or out of one, while it is used."`
	Moves  tenantMovesCmd  `cmd:"" help:"List the moves that are not over: under way, broken off, or with an old copy that was not dropped."`
}

type tenantExportCmd struct {
	registeredTenant

	Out string `required:"" type:"path" placeholder:"FILE" help:"The file to write, which must not be there yet."`
}

// Run exports the tenant.
func (c *tenantExportCmd) Run(ctx context.Context, r *runner) error {
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	exported, err := dir.Export(ctx, t.ID, c.Out)
	if err != nil {
		return err
	}
	return r.print(exported, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "exported %s to %s: %d tables, %d rows\n", t.Slug, c.Out, exported.Tables, exported.Rows)
	})
}

type tenantImportCmd struct {
	buildFlags

	File         string `arg:"" type:"path" help:"The file, which 'leasehold tenant export' wrote. What it defines is made with the administrator's rights: import only what you trust."`
	Subdomain    string `placeholder:"NAME" help:"The new tenant's subdomain. Defaults to the one in the file."`
	Company      string `placeholder:"NAME" help:"The company's name. Defaults to the one in the file."`
	ContactName  string `placeholder:"NAME" help:"The person to talk to. Defaults to the one in the file."`
	ContactEmail string `placeholder:"ADDRESS" help:"That person's e-mail address. Defaults to the one in the file."`
	Strategy     string `enum:"schema,database," default:"" placeholder:"schema|database" help:"How to house the tenant. Defaults to what the cluster says."`
	Cluster      string `placeholder:"NAME" help:"Where to house the tenant. Defaults to the cluster with most room."`
}

// Run imports the tenant.
func (c *tenantImportCmd) Run(ctx context.Context, r *runner) error {
	dir, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	t, err := dir.Import(ctx, c.File, directory.NewTenant{
		Company: c.Company, ContactName: c.ContactName, ContactEmail: c.ContactEmail, Subdomain: c.Subdomain,
		Strategy: tenant.Strategy(c.Strategy), Cluster: c.Cluster,
	})
	if err != nil {
		return err
	}
	return r.print(newTenantView(t), func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "imported %s (%s) into %s\n", t.Slug, t.ID, home(t.Placement))
	})
}

type tenantMoveCmd struct {
	registeredTenant

	ToStrategy string        `name:"to-strategy" enum:"schema,database," default:"" placeholder:"schema|database" help:"How it is to be housed. Defaults to how it is."`
	ToCluster  string        `name:"to-cluster" placeholder:"NAME" help:"Where it is to live. Defaults to where it does."`
	ToNode     string        `name:"to-node" placeholder:"HOST:PORT" help:"The node of its Citus cluster that it is to be on, as Citus knows it."`
	Hold       time.Duration `default:"5s" placeholder:"DURATION" help:"How long the tenant's calls are held at most while its open transactions end, before it is tried again later (${default})."`
	Confirm    bool          `help:"Drop the old copy of a tenant that was moved. There is no way back after that."`
	Cancel     bool          `help:"End a move that is under way, or was broken off. The tenant stays where it was."`
}

// Run moves the tenant, or ends a move.
func (c *tenantMoveCmd) Run(ctx context.Context, r *runner) error {
	if err := c.check(); err != nil {
		return err
	}
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	switch {
	case c.ToNode != "":
		return moveToNode(ctx, r, dir, t, c.ToNode)
	case c.Confirm:
		return c.end(ctx, r, dir, t, dir.ConfirmMove, "dropped the old copy of %s\n")
	case c.Cancel:
		return c.end(ctx, r, dir, t, dir.CancelMove, "%s stays where it is\n")
	}
	progress := &moveProgress{r: r}
	moved, err := dir.Move(ctx, t.ID, directory.MoveOptions{
		Strategy: tenant.Strategy(c.ToStrategy), Cluster: c.ToCluster, HoldTime: c.Hold, Progress: progress.report,
	})
	if err != nil {
		return err
	}
	return r.print(newTenantView(moved), func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "moved %s to %s; its calls were held for %s; the old copy is kept until: leasehold tenant move %s --confirm\n",
			t.Slug, home(moved.Placement), progress.held.Round(time.Millisecond), t.Slug)
	})
}

func (c *tenantMoveCmd) check() error {
	ways := 0
	for _, given := range []bool{cmp.Or(c.ToStrategy, c.ToCluster) != "", c.ToNode != "", c.Confirm, c.Cancel} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return &config.Error{Setting: "tenant move", Err: errors.New("what is to be done?"), Hint: "write --to-strategy, --to-cluster or both, or --to-node, or --confirm, or --cancel"}
	case c.Hold <= 0:
		return &config.Error{Setting: "--hold", Err: fmt.Errorf("is %s", c.Hold), Hint: "write a duration such as 5s"}
	case c.ToNode != "":
		return checkNode(c.ToNode)
	}
	return nil
}

// end confirms or cancels a move.
func (c *tenantMoveCmd) end(ctx context.Context, r *runner, dir *directory.Directory, t *tenant.Tenant,
	do func(context.Context, tenant.ID) error, text string,
) error {
	if err := do(ctx, t.ID); err != nil {
		return err
	}
	now, err := dir.ByID(ctx, t.ID)
	if err != nil {
		return err
	}
	return r.print(newTenantView(now), func(w io.Writer) { _, _ = fmt.Fprintf(w, text, now.Slug) })
}

type tenantMovesCmd struct {
	config.Database `group:"Database"`
}

// Run lists the moves.
func (c *tenantMovesCmd) Run(ctx context.Context, r *runner) error {
	dir, err := openDirectory(ctx, c.Database, keys{}, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	moves, err := dir.Moves(ctx)
	if err != nil {
		return err
	}
	views := make([]moveView, len(moves))
	for i, m := range moves {
		views[i] = newMoveView(m)
	}
	return r.print(views, func(w io.Writer) {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "SUBDOMAIN\tFROM\tTO\tSTATE\tSTARTED\tTO END IT")
		for _, v := range views {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Subdomain, v.From, v.To, v.State, v.StartedAt.Format(time.DateTime), v.next())
		}
		_ = table.Flush()
		_, _ = fmt.Fprintf(w, "%d in all\n", len(views))
	})
}

// moveView is a move as commands print it.
type moveView struct {
	ID         tenant.ID   `json:"id"`
	Subdomain  tenant.Slug `json:"subdomain"`
	State      string      `json:"state"`
	From       moveEnd     `json:"from"`
	To         moveEnd     `json:"to"`
	StartedAt  time.Time   `json:"started_at"`
	SwitchedAt time.Time   `json:"switched_at,omitzero"`
}

// moveEnd is one of the places of a move.
type moveEnd struct {
	Cluster  string `json:"cluster"`
	Strategy string `json:"strategy"`
	Database string `json:"database"`
}

func (e moveEnd) String() string { return e.Strategy + " on " + e.Cluster }

func newMoveView(m directory.OpenMove) moveView {
	end := func(p tenant.Placement) moveEnd { return moveEnd{p.Cluster, string(p.Strategy), p.Database} }
	return moveView{
		ID: m.Tenant.ID, Subdomain: m.Tenant.Slug, State: string(m.State), From: end(m.From), To: end(m.To),
		StartedAt: m.StartedAt, SwitchedAt: m.SwitchedAt,
	}
}

// next is the command that ends the move.
func (v moveView) next() string {
	flag := "--cancel"
	switch directory.MoveState(v.State) {
	case directory.MoveSwitched, directory.MoveUnconfirmed:
		flag = "--confirm"
	}
	return fmt.Sprintf("leasehold tenant move %s %s", v.Subdomain, flag)
}

// moveProgress writes a line for each thing that was done.
type moveProgress struct {
	r    *runner
	mu   sync.Mutex
	hold time.Time
	held time.Duration
}

func (p *moveProgress) report(now directory.MoveProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now.Step {
	case "hold":
		p.hold = time.Now()
	case "catch up", "finish":
		if !p.hold.IsZero() {
			p.held, p.hold = p.held+time.Since(p.hold), time.Time{}
		}
	}
	if p.r.json {
		return
	}
	switch {
	case now.Table != "":
		_, _ = fmt.Fprintf(p.r.Err, "copied %s: %d rows\n", now.Table, now.Rows)
	case now.Rows > 0:
		_, _ = fmt.Fprintf(p.r.Err, "%s: %d rows that had changed\n", now.Step, now.Rows)
	default:
		_, _ = fmt.Fprintf(p.r.Err, "%s\n", now.Step)
	}
}
