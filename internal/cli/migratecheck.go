package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/config"
	"github.com/leasehold-go/leasehold/internal/pgdump"
)

// dropTime bounds the removal of a reference, whatever became of the command.
const dropTime = 30 * time.Second

type migrateCheckCmd struct {
	fleet `set:"without_tenant=Defaults to all."`
}

// driftView is one difference, and who has it.
type driftView struct {
	Kind    string   `json:"kind"`
	Object  string   `json:"object"`
	Want    string   `json:"want"`
	Got     string   `json:"got"`
	Tenants []string `json:"tenants"`

	text string
}

type checkView struct {
	Tenants     int         `json:"tenants"`
	Clean       int         `json:"clean"`
	Differences []driftView `json:"differences"`
	// Behind are those that lack migrations. They are not compared.
	Behind []behindView `json:"behind"`
	// SparesLeftOut are those that are not up to date. Nobody uses them yet, and serve sees to them.
	SparesLeftOut int          `json:"spares_left_out,omitempty"`
	Unread        []unreadView `json:"unread"`
}

// errDrift is what a check ends with that found differences; they have been printed.
var errDrift = errors.New("tenants differ from what the migrations make")

// Run compares.
func (c *migrateCheckCmd) Run(ctx context.Context, r *runner) error {
	fleet, err := c.open(ctx, r, migrate.Config{})
	if err != nil {
		return err
	}
	defer fleet.dir.Close()
	leftOut := fleet.leaveOutSpares(ctx)
	var drifts []migrate.Drift
	err = withReference(ctx, fleet, func(reference migrate.Target) (err error) {
		drifts, err = fleet.m.Check(ctx, reference, fleet.all())
		return err
	})
	var failed *migrate.FailedError
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	view := newCheckView(drifts)
	view.SparesLeftOut = leftOut
	if printErr := r.print(view, func(w io.Writer) { view.write(w) }); printErr != nil || err != nil {
		return cmp.Or(printErr, err)
	}
	if len(view.Differences) > 0 {
		return &reportedError{errDrift}
	}
	return nil
}

// leaveOutSpares forgets the spares that are behind, or ahead because a newer release has made them, and returns how many.
func (c *openFleet) leaveOutSpares(ctx context.Context) int {
	statuses, _ := c.m.Status(ctx, c.spares) // Check will say what cannot be read
	var keep []migrate.Target
	for i, s := range statuses {
		if len(s.Pending)+len(s.Unknown) == 0 {
			keep = append(keep, c.spares[i])
		}
	}
	c.spares = keep
	return len(statuses) - len(keep)
}

// withReference calls do with a schema that the migrations have just made, and removes it.
func withReference(ctx context.Context, fleet *openFleet, do func(reference migrate.Target) error) error {
	reference, drop, err := fleet.dir.Reference(ctx)
	if err != nil {
		return err
	}
	err = do(reference)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTime)
	defer cancel()
	return errors.Join(err, drop(ctx))
}

// newCheckView puts together what tenants have in common: what one run has done wrong is wrong in many of them.
func newCheckView(drifts []migrate.Drift) checkView {
	v := checkView{Tenants: len(drifts), Differences: []driftView{}, Behind: []behindView{}, Unread: []unreadView{}}
	places := map[migrate.Difference]int{}
	for _, d := range drifts {
		switch {
		case d.Err != nil:
			v.Unread = append(v.Unread, unreadView{d.Target, d.Err.Error()})
		case len(d.Behind) > 0:
			v.Behind = append(v.Behind, behindView{d.Target, d.Behind})
		case len(d.Differences) == 0:
			v.Clean++
		}
		for _, diff := range d.Differences {
			i, known := places[diff]
			if !known {
				i = len(v.Differences)
				places[diff] = i
				v.Differences = append(v.Differences, driftView{Kind: diff.Kind, Object: diff.Object, Want: diff.Want, Got: diff.Got, text: diff.String()})
			}
			v.Differences[i].Tenants = append(v.Differences[i].Tenants, d.Target)
		}
	}
	slices.SortStableFunc(v.Differences, func(a, b driftView) int {
		return cmp.Or(cmp.Compare(b.rank(), a.rank()), cmp.Compare(len(b.Tenants), len(a.Tenants)))
	})
	return v
}

// rank puts first what explains the rest: other migrations.
func (d driftView) rank() int {
	if d.Kind == "migration" {
		return 1
	}
	return 0
}

func (v checkView) write(w io.Writer) {
	for _, d := range v.Differences {
		_, _ = fmt.Fprintf(w, "%s\n    in %s\n", d.text, someOf(d.Tenants, named))
	}
	writeSome(w, "unread", v.Unread, func(u unreadView) string { return "unread: " + u.Error })
	writeSome(w, "behind", groupBehind(v.Behind), group.behind)
	_, _ = fmt.Fprintf(w, "%d checked, %d as the migrations make them", v.Tenants-len(v.Behind), v.Clean)
	if n := len(v.Behind); n > 0 {
		_, _ = fmt.Fprintf(w, "; %d behind and not compared: leasehold migrate up, then check again", n)
	}
	if v.SparesLeftOut > 0 {
		_, _ = fmt.Fprintf(w, "; spares that are not current, left out: %d", v.SparesLeftOut)
	}
	_, _ = fmt.Fprintln(w)
}

type migrateDumpCmd struct {
	fleet `set:"without_tenant=Defaults to what the migrations make."`

	Out string `default:"db/schema.sql" placeholder:"FILE" help:"Where to write it (${default}); - for standard output."`
}

// Run dumps the schema of a tenant, or what the migrations make.
func (c *migrateDumpCmd) Run(ctx context.Context, r *runner) error {
	if c.Out == "-" && r.json {
		return &config.Error{Setting: "--json", Err: errors.New("contradicts --out -, which prints SQL"), Hint: "write one of the two"}
	}
	if c.Out != "-" { // what takes long is not done in vain
		if _, err := os.Stat(filepath.Dir(c.Out)); err != nil {
			return fmt.Errorf("%w — run this at the top of the project, or name the file: --out FILE", err)
		}
	}
	fleet, err := c.open(ctx, r, migrate.Config{})
	if err != nil {
		return err
	}
	defer fleet.dir.Close()
	var text []byte
	dump := func(t migrate.Target) (err error) {
		text, err = pgdump.Schema(ctx, pgdump.Config{Conn: t.Conn, Schema: t.Schema, Role: t.Role})
		return err
	}
	switch len(c.Tenant) {
	case 0:
		err = withReference(ctx, fleet, dump)
	case 1:
		err = dump(fleet.tenants[0])
	default:
		err = errors.New("one tenant has one schema; give --tenant once, or not at all for what the migrations make")
	}
	if err != nil {
		return err
	}
	if c.Out == "-" {
		_, err := r.Out.Write(text)
		return err
	}
	if err := os.WriteFile(c.Out, text, 0o644); err != nil { //nolint:gosec // it is for a repository
		return err
	}
	return r.print(map[string]string{"file": c.Out}, func(w io.Writer) { _, _ = fmt.Fprintf(w, "wrote %s\n", filepath.ToSlash(c.Out)) })
}
