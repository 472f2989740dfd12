package transfer

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/leasehold-go/leasehold/internal/pgdump"
)

// entry is one thing in the text of pg_dump.
type entry struct{ name, kind, sql string }

// heading is what pg_dump puts over each thing.
var heading = regexp.MustCompile(`(?m)^--\n-- (?:Data for )?Name: (.*); Type: (.*); Schema: (.*); Owner: .*\n--\n\n`)

const ending = "--\n-- PostgreSQL database dump complete\n--\n"

// split cuts the text of pg_dump into its entries. The schema itself and rights are left out: the house has them.
func split(text []byte) []entry {
	if i := bytes.LastIndex(text, []byte(ending)); i >= 0 {
		text = text[:i]
	}
	var entries []entry
	headings := heading.FindAllSubmatchIndex(text, -1)
	for i, at := range headings {
		end := len(text)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		e := entry{name: string(text[at[2]:at[3]]), kind: string(text[at[4]:at[5]]), sql: strings.TrimSpace(string(text[at[1]:end]))}
		if schema := string(text[at[6]:at[7]]); (schema != "-" || e.kind == "COMMENT") && e.kind != "ACL" && e.kind != "DEFAULT ACL" && e.sql != "" {
			entries = append(entries, e)
		}
	}
	return entries
}

// definitionOptions leave out what belongs to the place and not to the tenant.
var definitionOptions = []string{
	"--no-owner", "--no-privileges", "--no-tablespaces", "--no-security-labels", "--no-publications", "--no-subscriptions",
}

// define asks pg_dump for one section of the definitions.
func (p Place) define(ctx context.Context, section string) ([]entry, error) {
	var text bytes.Buffer
	options := append([]string{"--format=plain", "--section=" + section, "--strict-names", `--schema="` + p.Schema + `"`}, definitionOptions...)
	if _, err := pgdump.Write(ctx, p.Admin, &text, options...); err != nil {
		return nil, err
	}
	return split(text.Bytes()), nil
}

// batchSize is how many entries travel together. They are one transaction, whose locks are so bounded.
const batchSize = 20

// apply runs the entries in order.
func (s *session) apply(ctx context.Context, entries []entry) error {
	for batch := range slices.Chunk(entries, batchSize) {
		// pg_dump qualifies all names. Functions are looked up in nothing else.
		statements := []string{"set search_path to pg_temp"}
		for _, e := range batch {
			statements = append(statements, strings.TrimSuffix(e.sql, ";"))
		}
		statements = append(statements, "reset search_path")
		if err := s.run(ctx, statements...); err != nil {
			return fmt.Errorf("make %s: %w", describe(batch), err)
		}
	}
	return nil
}

// describe names the first and the last of some entries.
func describe(batch []entry) string {
	first, last := batch[0], batch[len(batch)-1]
	text := strings.ToLower(first.kind) + " " + first.name
	if len(batch) > 1 {
		text += " to " + strings.ToLower(last.kind) + " " + last.name
	}
	return text
}

// stages are the entries of the section post-data, by when a live copy makes them.
type stages struct {
	// early are indexes and what goes by them: the copy is kept up to date with their help.
	early []entry
	// views fill materialized views.
	views []entry
	// late is what would act on rows that are carried over, or refuse them.
	late []entry
}

func stage(entries []entry) stages {
	var st stages
	for _, e := range entries {
		switch e.kind {
		case "INDEX", "INDEX ATTACH", "CONSTRAINT", "STATISTICS":
			st.early = append(st.early, e)
		case "MATERIALIZED VIEW DATA":
			st.views = append(st.views, e)
		case "FK CONSTRAINT":
			e.sql = unvalidated(e.sql)
			st.late = append(st.late, e)
		default:
			st.late = append(st.late, e)
		}
	}
	return st
}

// unvalidated makes a foreign key that is not checked when it is made. That of a partitioned table must be.
func unvalidated(sql string) string {
	bare := strings.TrimSuffix(sql, ";")
	if !strings.HasPrefix(sql, "ALTER TABLE ONLY ") || strings.HasSuffix(bare, " NOT VALID") {
		return sql
	}
	return bare + " NOT VALID;"
}
