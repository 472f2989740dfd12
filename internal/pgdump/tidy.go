package pgdump

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

const (
	// roleName stands for the tenant's role, which each tenant has another one of.
	roleName = "tenant_role"
	// schemaName stands for the schema where its name is not followed by that of something in it, and Config.Name is empty.
	schemaName = "tenant_schema"
)

// preamble stands for pg_dump's, which also sets what a load does not need and names versions. Functions come before what
// they speak of.
const preamble = `-- The schema of one tenant. Load it into an empty schema that is the first of the search_path.

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET check_function_bodies = false;

`

// preambleNamed is preamble for a dump that creates the schema.
const preambleNamed = `-- The schema of one tenant.

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET check_function_bodies = false;
SELECT pg_catalog.set_config('search_path', '', false);

`

// entry is the heading that pg_dump puts over each thing.
var entry = regexp.MustCompile(`(?m)^--\n-- Name: (.*); Type: (.*); Schema: (.*); Owner: .*\n--\n\n`)

const ending = "--\n-- PostgreSQL database dump complete\n--\n"

// tidy makes the dump of the product out of what pg_dump wrote about one tenant.
func (c Config) tidy(raw []byte, versions []string) []byte {
	if i := bytes.LastIndex(raw, []byte(ending)); i >= 0 {
		raw = raw[:i]
	}
	var out bytes.Buffer
	if c.Name == "" {
		out.WriteString(preamble)
	} else {
		out.WriteString(preambleNamed)
	}
	headings := entry.FindAllSubmatchIndex(raw, -1)
	for i, at := range headings {
		end := len(raw)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		name, kind, schema := string(raw[at[2]:at[3]]), string(raw[at[4]:at[5]]), string(raw[at[6]:at[7]])
		// Only the schema itself, and what is said of it, belongs to no schema.
		if c.Name == "" && schema == "-" {
			continue
		}
		fmt.Fprintf(&out, "--\n-- Name: %s; Type: %s\n--\n\n", name, kind)
		out.Write(raw[at[1]:end])
	}
	return append(c.rename(out.Bytes()), c.ledger(versions)...)
}

// rename replaces the names of the schema and the role.
func (c Config) rename(text []byte) []byte {
	schema := `(?:"` + c.Schema + `"|\b` + c.Schema + `\b)`
	if c.Name == "" {
		// What a function was given by SET search_path FROM CURRENT.
		text = regexp.MustCompile(`(?m)^    SET search_path TO '`+c.Schema+`'(?:, '[a-z0-9_]+')*$`).
			ReplaceAll(text, []byte("    SET search_path FROM CURRENT"))
		text = regexp.MustCompile(schema+`\.`).ReplaceAll(text, nil)
	}
	text = regexp.MustCompile(schema).ReplaceAll(text, []byte(cmp.Or(c.Name, schemaName)))
	if c.Role != "" {
		text = regexp.MustCompile(`(?:"`+c.Role+`"|\b`+c.Role+`\b)`).ReplaceAll(text, []byte(roleName))
	}
	return text
}

// ledger is what dbmate itself puts at the end of a dump.
func (c Config) ledger(versions []string) string {
	if len(versions) == 0 {
		return ""
	}
	table := ledgerName
	if c.Name != "" {
		table = c.Name + "." + table
	}
	rows := make([]string, len(versions))
	for i, version := range versions {
		rows[i] = "    ('" + strings.ReplaceAll(version, "'", "''") + "')"
	}
	return "--\n-- Dbmate schema migrations\n--\n\nINSERT INTO " + table + " (version) VALUES\n" + strings.Join(rows, ",\n") + ";\n"
}
