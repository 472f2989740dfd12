package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/config"
)

// words are how a command speaks of what it does.
type words struct {
	done, each string
	then       string // what to do when it did not all go well
	afterwards string // what else to do, after a rollback that did not all go well
}

var (
	forwards  = words{done: "migrated", each: "%s: %d applied, up to %s\n", then: "run the same command again; what is done stays done"}
	backwards = words{done: "rolled back", each: "%s: %d rolled back, down to before %s\n"}
	// The two halves of a redo.
	thereAnd  = words{done: backwards.done, each: backwards.each, afterwards: ", then: leasehold migrate up"}
	backAgain = words{done: forwards.done, each: forwards.each, then: "run: leasehold migrate up"}
)

// resultView is what became of one tenant, for --json.
type resultView struct {
	Tenant     string   `json:"tenant"`
	Schema     string   `json:"schema"`
	Spare      bool     `json:"spare,omitempty"`
	Applied    []string `json:"applied"`
	DurationMS int64    `json:"duration_ms"`
	Error      string   `json:"error,omitempty"`
	// Where the error is, if it is one of a file, and what the server said besides.
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	SQLState string `json:"sqlstate,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Hint     string `json:"hint,omitempty"`
}

func newResultView(res migrate.Result, spare bool) resultView {
	v := resultView{Tenant: res.Target, Schema: res.Schema, Spare: spare, Applied: append([]string{}, res.Applied...), DurationMS: res.Duration.Milliseconds()}
	if res.Err != nil {
		v.Error = res.Err.Error()
	}
	if e := (*migrate.Error)(nil); errors.As(res.Err, &e) {
		v.File, v.Line = e.File, e.Line
	}
	if e := (*pgconn.PgError)(nil); errors.As(res.Err, &e) {
		v.SQLState, v.Detail, v.Hint = e.Code, e.Detail, e.Hint
	}
	return v
}

// reportView is the report of one run.
type reportView struct {
	Started    time.Time    `json:"started"`
	Seconds    float64      `json:"seconds"`
	Stopped    string       `json:"stopped,omitempty"`
	Applied    []resultView `json:"applied"`
	Current    []resultView `json:"current"`
	Failed     []resultView `json:"failed"`
	Unfinished []resultView `json:"unfinished"`
}

func newReportView(r migrate.Report, fleet *openFleet, start time.Time, err error) reportView {
	spares := make(map[string]bool)
	for _, s := range fleet.spares {
		spares[s.Schema] = true
	}
	views := func(results []migrate.Result) []resultView {
		vs := make([]resultView, len(results))
		for i, res := range results {
			vs[i] = newResultView(res, spares[res.Schema])
		}
		return vs
	}
	v := reportView{
		Started: start.UTC(), Seconds: time.Since(start).Seconds(),
		Applied: views(r.Applied), Current: views(r.Current), Failed: views(r.Failed), Unfinished: views(r.Unfinished),
	}
	if len(r.Unfinished) > 0 {
		v.Stopped = whyLeftOut(err)
	}
	return v
}

// write tells the numbers of tenants, and of spares if there are any.
func (v reportView) write(w io.Writer, words words) {
	tenants, spares := v.counts(false), v.counts(true)
	_, _ = fmt.Fprintf(w, "%d %s, %d current, %d failed", tenants[0], words.done, tenants[1], tenants[2])
	if tenants[3] > 0 {
		_, _ = fmt.Fprintf(w, ", %d not reached", tenants[3])
	}
	if spares != [4]int{} {
		_, _ = fmt.Fprintf(w, "; spares: %d %s, %d current, %d failed", spares[0], words.done, spares[1], spares[2])
	}
	_, _ = fmt.Fprintln(w)
}

// counts are how many were changed, were current, failed and were left out.
func (v reportView) counts(spare bool) (n [4]int) {
	for i, list := range [][]resultView{v.Applied, v.Current, v.Failed, v.Unfinished} {
		for _, res := range list {
			if res.Spare == spare {
				n[i]++
			}
		}
	}
	return n
}

// reportFile is where a report is written besides.
type reportFile struct {
	file *os.File // nil if nobody asked for it
}

// newReportFile opens the file before anything is done, so that the report is not lost for a name that is wrong.
func newReportFile(name string) (*reportFile, error) {
	if name == "" {
		return &reportFile{}, nil
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // it holds no secret
	if err != nil {
		return nil, &config.Error{Setting: "--report", Err: err, Hint: "name a file in a folder that is there and may be written to"}
	}
	return &reportFile{file: file}, nil
}

// write replaces what stands in the file.
func (f *reportFile) write(v reportView) error {
	if f.file == nil {
		return nil
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = f.file.Truncate(0)
	}
	if err == nil {
		_, err = f.file.WriteAt(append(text, '\n'), 0)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (f *reportFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
