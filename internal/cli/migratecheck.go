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
	"strings"
	"time"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/pgdump"
)

// dropTime bounds the removal of a reference, whatever became of the command.
const dropTime = 30 * time.Second

type migrateCheckCmd struct{ fleet }

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
	Tenants     int          `json:"tenants"`
	Clean       int          `json:"clean"`
	Differences []driftView  `json:"differences"`
	Unread      []unreadView `json:"unread"`
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
	if printErr := r.print(view, func(w io.Writer) { view.write(w) }); printErr != nil || err != nil {
		return cmp.Or(printErr, err)
	}
	if len(view.Differences) > 0 {
		return &reportedError{errDrift}
	}
	return nil
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
	v := checkView{Tenants: len(drifts), Differences: []driftView{}, Unread: []unreadView{}}
	places := map[migrate.Difference]int{}
	for _, d := range drifts {
		switch {
		case d.Err != nil:
			v.Unread = append(v.Unread, unreadView{d.Target, d.Err.Error()})
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
	slices.SortStableFunc(v.Differences, func(a, b driftView) int { return cmp.Compare(len(b.Tenants), len(a.Tenants)) })
	return v
}

func (v checkView) write(w io.Writer) {
	for _, d := range v.Differences {
		_, _ = fmt.Fprintf(w, "%s\n    in %s\n", d.text, someOf(d.Tenants))
	}
	writeSome(w, "unread", v.Unread, func(u unreadView) string { return "unread: " + u.Error })
	_, _ = fmt.Fprintf(w, "%d checked, %d as the migrations make them\n", v.Tenants, v.Clean)
}

// someOf names the first few.
func someOf(names []string) string {
	list := strings.Join(names[:min(len(names), named)], ", ")
	if more := len(names) - named; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

type migrateDumpCmd struct {
	fleet

	Out string `default:"db/schema.sql" placeholder:"FILE" help:"Where to write it (${default}); - for standard output."`
}

// Run dumps the schema of a tenant, or what the migrations make.
func (c *migrateDumpCmd) Run(ctx context.Context, r *runner) error {
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
