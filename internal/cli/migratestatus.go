package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/leasehold-go/leasehold/db/migrate"
)

type migrateStatusCmd struct {
	fleet `set:"without_tenant=Defaults to all."`
}

// statusView is how far the fleet is.
type statusView struct {
	Tenants int `json:"tenants"`
	Current int `json:"current"`
	// States are where the tenants are, those who are the furthest first.
	States   []stateView  `json:"states"`
	Versions []versionRow `json:"versions"`
	Behind   []behindView `json:"behind"`
	// OutOfOrder are files that Up would run after one that comes later.
	OutOfOrder []outOfOrderView `json:"out_of_order"`
	Unread     []unreadView     `json:"unread"`
	Unknown    []unknownView    `json:"unknown"`
	Spares     *sparesView      `json:"spares,omitempty"`
}

// stateView is a place on the way where tenants are.
type stateView struct {
	// Last is the last file that is applied, or "".
	Last    string   `json:"last"`
	Pending []string `json:"pending"`
	Tenants int      `json:"tenants"`
}

type versionRow struct {
	File    string `json:"file"`
	Applied int    `json:"applied"`
	Pending int    `json:"pending"`
}

type behindView struct {
	Tenant  string   `json:"tenant"`
	Pending []string `json:"pending"`
}

type outOfOrderView struct {
	Tenant string   `json:"tenant"`
	Files  []string `json:"files"`
	// OlderThan is the last that is applied.
	OlderThan string `json:"older_than"`
}

type unreadView struct {
	Tenant string `json:"tenant"`
	Error  string `json:"error"`
}

type unknownView struct {
	Tenant   string   `json:"tenant"`
	Versions []string `json:"versions"`
}

type sparesView struct {
	Spares  int `json:"spares"`
	Current int `json:"current"`
	Behind  int `json:"behind"`
	// Ahead are those that a newer release has made.
	Ahead  int `json:"ahead"`
	Unread int `json:"unread"`
}

func newSparesView(statuses []migrate.TargetStatus) *sparesView {
	v := sparesView{Spares: len(statuses)}
	for _, s := range statuses {
		switch {
		case s.Err != nil:
			v.Unread++
		case len(s.Unknown) > 0:
			v.Ahead++
		case len(s.Pending) > 0:
			v.Behind++
		default:
			v.Current++
		}
	}
	return &v
}

func (v sparesView) write(w io.Writer) {
	_, _ = fmt.Fprintf(w, "spares: %d, %d current", v.Spares, v.Current)
	if v.Behind > 0 {
		_, _ = fmt.Fprintf(w, ", %d behind", v.Behind)
	}
	if v.Unread > 0 {
		_, _ = fmt.Fprintf(w, ", %d unread", v.Unread)
	}
	if v.Ahead > 0 {
		_, _ = fmt.Fprintf(w, ", %d ahead: made by a newer release, which will use what it made; nothing to do here", v.Ahead)
	}
	_, _ = fmt.Fprintln(w)
}

// Run shows the state of the fleet.
func (c *migrateStatusCmd) Run(ctx context.Context, r *runner) error {
	fleet, err := c.open(ctx, r, migrate.Config{})
	if err != nil {
		return err
	}
	defer fleet.dir.Close()
	statuses, err := fleet.m.Status(ctx, fleet.tenants)
	var failed *migrate.FailedError
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	view := newStatusView(statuses)
	if len(fleet.spares) > 0 {
		spares, _ := fleet.m.Status(ctx, fleet.spares) // one that is not read is counted as that
		view.Spares = newSparesView(spares)
	}
	if printErr := r.print(view, func(w io.Writer) { view.write(w) }); printErr != nil {
		return printErr
	}
	return err
}

func newStatusView(statuses []migrate.TargetStatus) statusView {
	v := statusView{
		Tenants: len(statuses), States: []stateView{}, Versions: []versionRow{}, Behind: []behindView{}, OutOfOrder: []outOfOrderView{},
		Unread: []unreadView{}, Unknown: []unknownView{},
	}
	rows, states := map[string]*versionRow{}, map[string]*stateView{}
	row := func(file string) *versionRow {
		if rows[file] == nil {
			rows[file] = &versionRow{File: file}
		}
		return rows[file]
	}
	for _, s := range statuses {
		if s.Err != nil {
			v.Unread = append(v.Unread, unreadView{s.Target, s.Err.Error()})
			continue
		}
		for _, file := range s.Applied {
			row(file).Applied++
		}
		for _, file := range s.Pending {
			row(file).Pending++
		}
		state := newState(s)
		key := state.Last + "|" + strings.Join(state.Pending, "|")
		if states[key] == nil {
			states[key] = &state
		}
		states[key].Tenants++
		if len(s.Unknown) > 0 {
			v.Unknown = append(v.Unknown, unknownView{s.Target, s.Unknown})
		}
		if files, last := outOfOrder(s); len(files) > 0 {
			v.OutOfOrder = append(v.OutOfOrder, outOfOrderView{s.Target, files, last})
		}
		if len(s.Pending) > 0 {
			v.Behind = append(v.Behind, behindView{s.Target, s.Pending})
		} else {
			v.Current++
		}
	}
	for _, r := range rows {
		v.Versions = append(v.Versions, *r)
	}
	slices.SortFunc(v.Versions, func(a, b versionRow) int { return cmp.Compare(a.File, b.File) })
	for _, s := range states {
		v.States = append(v.States, *s)
	}
	slices.SortFunc(v.States, func(a, b stateView) int {
		return cmp.Or(cmp.Compare(len(a.Pending), len(b.Pending)), cmp.Compare(b.Last, a.Last))
	})
	return v
}

func newState(s migrate.TargetStatus) stateView {
	state := stateView{Pending: append([]string{}, s.Pending...)}
	if n := len(s.Applied); n > 0 {
		state.Last = s.Applied[n-1]
	}
	return state
}

// outOfOrder returns which of the pending files come before the last one that is applied, and that one. Names begin with versions, all
// of one length. Who has none of the files has those of something else.
func outOfOrder(s migrate.TargetStatus) (files []string, last string) {
	if len(s.Applied) == 0 {
		return nil, ""
	}
	for _, applied := range slices.Concat(s.Applied, s.Unknown) {
		last = max(last, applied)
	}
	for _, file := range s.Pending {
		if file < last {
			files = append(files, file)
		}
	}
	return files, last
}

func groupBehind(all []behindView) groups {
	return newGroups(all, func(b behindView) group { return group{tenants: []string{b.Tenant}, what: b.Pending} }).largest()
}

func (v statusView) ahead() groups {
	return newGroups(v.Unknown, func(u unknownView) group { return group{tenants: []string{u.Tenant}, what: u.Versions} }).largest()
}

func (v statusView) outOfOrder() groups {
	return newGroups(v.OutOfOrder, func(o outOfOrderView) group {
		return group{tenants: []string{o.Tenant}, what: o.Files, than: o.OlderThan}
	}).largest()
}

func (v statusView) write(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "LAST APPLIED\tTENANTS\tPENDING")
	for _, s := range v.States {
		pending := "-"
		if n := len(s.Pending); n > 0 {
			pending = fmt.Sprintf("%d from %s", n, s.Pending[0])
		}
		_, _ = fmt.Fprintf(table, "%s\t%d\t%s\n", cmp.Or(s.Last, "nothing"), s.Tenants, pending)
	}
	_ = table.Flush()
	_, _ = fmt.Fprintf(w, "%s, %d current\n", tenants(v.Tenants), v.Current)
	if v.Spares != nil {
		v.Spares.write(w)
	}
	writeSome(w, "behind", groupBehind(v.Behind), group.behind)
	writeSome(w, "out of order", v.outOfOrder(), group.outOfOrder)
	writeSome(w, "ahead", v.ahead(), group.ahead)
	writeSome(w, "unread", v.Unread, func(u unreadView) string { return "unread: " + u.Error }) // it begins with the tenant
}

// writeSome writes a line for each of the first few, and how many more there are.
func writeSome[T any](w io.Writer, what string, all []T, line func(T) string) {
	for _, one := range all[:min(len(all), named)] {
		_, _ = fmt.Fprintln(w, line(one))
	}
	if more := len(all) - named; more > 0 {
		_, _ = fmt.Fprintf(w, "%s: %d more; --json names them\n", what, more)
	}
}
