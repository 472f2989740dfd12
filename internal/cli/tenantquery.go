package cli

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/config"
)

// tenantQueryCmd is leasehold tenant query.
type tenantQueryCmd struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`

	SQL string `arg:"" name:"sql" help:"One statement that reads. Each tenant's runs in its schema, by its role, in a transaction of its own that may not write."`

	Tenant      []string `name:"tenant" placeholder:"SUBDOMAIN" help:"Only this tenant; may be given several times. Defaults to all."`
	Status      string   `enum:"active,suspended,all" default:"active" help:"Only tenants in this state: ${enum} (${default})."`
	Parallel    int      `default:"4" placeholder:"N" help:"Tenants at a time, each with a connection (${default})."`
	MaxFailures *int     `placeholder:"N" help:"Ask no other tenant when so many have failed. Defaults to no limit."`
	MaxRows     int      `default:"1000" placeholder:"N" help:"A tenant that answers with more rows fails (${default})."`
	CSV         bool     `name:"csv" help:"Print the rows as CSV."`
}

// Run asks the tenants and prints their rows as they come.
func (c *tenantQueryCmd) Run(ctx context.Context, r *runner) (err error) {
	opts := directory.GatherOptions{Parallel: c.Parallel, Statuses: statusesOf(c.Status)}
	if opts.MaxFailures, err = atLeastOne("--max-failures", c.MaxFailures); err != nil {
		return err
	}
	for setting, n := range map[string]*int{"--parallel": &c.Parallel, "--max-rows": &c.MaxRows} {
		if _, err := atLeastOne(setting, n); err != nil {
			return err
		}
	}
	keys, err := keysOf(c.Secret)
	if err != nil {
		return err
	}
	dir, err := openDirectory(ctx, c.Database, keys, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	if opts.Tenants, err = findAll(ctx, dir, c.Tenant); err != nil {
		return err
	}
	runtime, err := dir.RuntimeConn(ctx)
	if err != nil {
		return err
	}
	db, err := tenantdb.Open(ctx, tenantdb.Config{
		ConnConfig: runtime, Login: dir.LoginConn, MaxConns: c.Parallel, MaxDatabaseConns: c.Parallel, Logger: r.quiet(ctx),
	})
	if err != nil {
		return err
	}
	defer db.Close()
	printer := newRowPrinter(r.Out, r.json, c.CSV)
	failed := 0
	for row, err := range directory.Gather(ctx, dir, db, opts, c.ask) {
		switch one := (*directory.TenantError)(nil); {
		case errors.As(err, &one):
			failed++
			_, _ = fmt.Fprintf(r.Err, "leasehold: %s\n", oneLine(one.Error()))
		case err != nil:
			return errors.Join(err, printer.end())
		default:
			if err := printer.print(row.Tenant, row.Row); err != nil {
				return err
			}
		}
	}
	if err := printer.end(); err != nil || failed == 0 {
		return err
	}
	return &reportedError{fmt.Errorf("%d tenants failed", failed)}
}

// textRow is a row as PostgreSQL writes it down; a null is nil.
type textRow struct {
	columns []string
	values  []*string
}

// ask runs the statement in one tenant.
func (c *tenantQueryCmd) ask(ctx context.Context, tx pgx.Tx) ([]textRow, error) {
	rows, err := tx.Query(ctx, c.SQL, pgx.QueryResultFormats{pgx.TextFormatCode})
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var (
		list    []textRow
		columns []string
	)
	for rows.Next() {
		if len(list) == c.MaxRows {
			return nil, fmt.Errorf("it has more than %d rows; say LIMIT, or raise --max-rows", c.MaxRows)
		}
		if columns == nil {
			for _, field := range rows.FieldDescriptions() {
				columns = append(columns, field.Name)
			}
		}
		row := textRow{columns: columns, values: make([]*string, len(columns))}
		for i, raw := range rows.RawValues() {
			if raw != nil {
				text := string(raw)
				row.values[i] = &text
			}
		}
		list = append(list, row)
	}
	return list, rows.Err()
}

// rowPrinter prints rows as they come, with the tenant in front.
type rowPrinter struct {
	w       io.Writer
	json    bool
	csv     *csv.Writer // nil for lines with tabs
	printed int
	columns []string // of the row before
}

func newRowPrinter(w io.Writer, asJSON, asCSV bool) *rowPrinter {
	p := &rowPrinter{w: w, json: asJSON}
	if asCSV {
		p.csv = csv.NewWriter(w)
	}
	return p
}

func (p *rowPrinter) print(t *tenant.Tenant, row textRow) error {
	defer func() { p.printed++ }()
	if p.json {
		return p.printJSON(t, row)
	}
	if p.printed == 0 || !slices.Equal(p.columns, row.columns) { // a tenant that is behind may have others
		if err := p.line(append([]string{"tenant"}, row.columns...)); err != nil {
			return err
		}
		p.columns = row.columns
	}
	cells := []string{string(t.Slug)}
	for _, value := range row.values {
		switch {
		case value != nil:
			cells = append(cells, *value)
		case p.csv != nil:
			cells = append(cells, "")
		default:
			cells = append(cells, "NULL")
		}
	}
	return p.line(cells)
}

// breaks would break a line of cells.
var breaks = strings.NewReplacer("\t", `\t`, "\n", `\n`, "\r", `\r`, `\`, `\\`)

func (p *rowPrinter) line(cells []string) error {
	if p.csv != nil {
		if err := p.csv.Write(cells); err != nil {
			return err
		}
		p.csv.Flush()
		return p.csv.Error()
	}
	for i, cell := range cells {
		cells[i] = breaks.Replace(cell)
	}
	_, err := fmt.Fprintln(p.w, strings.Join(cells, "\t"))
	return err
}

// printJSON writes one element of a list. The values are PostgreSQL's text.
func (p *rowPrinter) printJSON(t *tenant.Tenant, row textRow) error {
	values := make(map[string]*string, len(row.columns))
	for i, column := range row.columns {
		values[column] = row.values[i]
	}
	text, err := json.Marshal(struct {
		Tenant tenant.Slug        `json:"tenant"`
		ID     tenant.ID          `json:"id"`
		Row    map[string]*string `json:"row"`
	}{t.Slug, t.ID, values})
	if err != nil {
		return err
	}
	before := ",\n"
	if p.printed == 0 {
		before = "[\n"
	}
	_, err = fmt.Fprintf(p.w, "%s  %s", before, text)
	return err
}

// end ends the list.
func (p *rowPrinter) end() error {
	if !p.json {
		return nil
	}
	after := "\n]\n"
	if p.printed == 0 {
		after = "[]\n"
	}
	_, err := io.WriteString(p.w, after)
	return err
}
