package migrate

import (
	"fmt"
	"slices"
	"strings"
)

// check parses the file and returns all that is wrong with it.
func (f *file) check() []error {
	if err := f.parse(); err != nil {
		return []error{err}
	}
	errs := f.checkSection(&f.up)
	errs = append(errs, f.checkSection(&f.down)...)
	if len(f.up.statements) == 0 && len(errs) == 0 {
		errs = append(errs, f.problem(f.up.offset, `the up section has no statement; write "SELECT 1;" if that is meant`))
	}
	return errs
}

// checkSection looks at every statement and notes where they stand.
func (f *file) checkSection(s *section) []error {
	errs := f.checkOptions(s)
	s.tame = s.transaction
	s.grants = strings.Contains(strings.ToLower(s.text), "grant") // in dynamic SQL too
	for _, st := range split(s.text) {
		if len(st.tokens) == 0 {
			continue
		}
		first, last := st.tokens[0], st.tokens[len(st.tokens)-1]
		s.statements = append(s.statements, span{first.start, last.end})
		q := query{s.text, st.tokens}
		for i, t := range st.tokens {
			if t.kind == tokenUnterminated {
				errs = append(errs, f.problem(s.offset+t.start, "the %s section ends inside the literal or comment that begins here", s.name))
			}
			if q.symbol(i) == '\\' {
				errs = append(errs, f.problem(s.offset+t.start, "commands of psql do not work here; write SQL"))
				break
			}
		}
		message := q.refusal(s.transaction)
		if message == "" && !s.transaction {
			message = q.refusalAlone()
		}
		if message != "" {
			errs = append(errs, f.problem(s.offset+first.start, "%s", message))
		}
		s.index = q.indexName()
		s.tame = s.tame && q.tame()
		s.concurrently = s.concurrently || q.concurrently()
	}
	if n := len(s.statements); n > 1 && !s.transaction {
		errs = append(errs, f.problem(s.offset+s.statements[1].start,
			"a section with transaction:false holds one statement, this one %d: the server would run them in one transaction; give each a file", n))
	}
	return errs
}

// checkOptions refuses options that dbmate would ignore, such as "transaction: false".
func (f *file) checkOptions(s *section) []error {
	directive, _, _ := strings.Cut(s.text, "\n")
	_, options, _ := strings.Cut(directive, "migrate:"+s.name)
	for _, option := range strings.Fields(options) {
		if option != "transaction:true" && option != "transaction:false" {
			return []error{f.problem(s.offset, "unknown option %q; there is only transaction:false, without spaces in it", option)}
		}
	}
	return nil
}

// query is one statement with its tokens.
type query struct {
	src    string
	tokens []token
}

// name is the i-th token in lower case if it is a word or quoted identifier; settings and functions may be written either
// way. It is "" otherwise.
func (q query) name(i int) string {
	if i >= len(q.tokens) {
		return ""
	}
	t := q.tokens[i]
	text := q.src[t.start:t.end]
	switch t.kind {
	case tokenWord:
		return strings.ToLower(text)
	case tokenQuoted:
		return strings.ToLower(strings.Trim(text, `"`))
	default:
		return ""
	}
}

// words is the first n words, in lower case, joined by spaces; it is shorter where something else stands.
func (q query) words(n int) string {
	var words []string
	for i := 0; i < n && i < len(q.tokens) && q.tokens[i].kind == tokenWord; i++ {
		words = append(words, q.name(i))
	}
	return strings.Join(words, " ")
}

// symbol is the i-th token if it is a single symbol, or 0.
func (q query) symbol(i int) byte {
	if t := q.tokens[i]; t.kind == tokenSymbol {
		return q.src[t.start]
	}
	return 0
}

// has reports whether a word stands anywhere in the statement, literals aside.
func (q query) has(word string) bool {
	for i, t := range q.tokens {
		if t.kind == tokenWord && q.name(i) == word {
			return true
		}
	}
	return false
}

// concurrently reports whether the statement is one that PostgreSQL runs in several transactions of its own.
func (q query) concurrently() bool {
	switch q.words(1) {
	case "create", "drop", "reindex", "alter":
		return q.has("concurrently")
	default:
		return false
	}
}

// refusalAlone says why the statement may not stand in a section with transaction:false, or "". A process that ends between the
// statement and its record in the ledger leaves a statement that is run again, so only those are let through that may be.
func (q query) refusalAlone() string {
	switch first := q.words(1); {
	case q.creates("index") && q.concurrently():
		if q.indexName() == "" {
			return "write CREATE INDEX CONCURRENTLY IF NOT EXISTS and a name, so that it can be run again if it is broken off"
		}
	case first == "drop" && q.concurrently():
		if !q.hasInOrder("if", "exists") {
			return "write DROP INDEX CONCURRENTLY IF EXISTS, so that it can be run again if it is broken off"
		}
	case q.words(2) == "alter type":
		if !q.hasInOrder("if", "not", "exists") {
			return "write ADD VALUE IF NOT EXISTS, so that it can be run again if it is broken off"
		}
	case q.words(2) == "alter table" && q.concurrently():
	case slices.Contains([]string{"reindex", "vacuum", "analyze", "cluster", "refresh", "call", "do"}, first):
	default:
		return "transaction:false is for what cannot run in a transaction, and this can; leave it out, and the file is applied wholly or not at all"
	}
	return ""
}

// creates reports whether the statement is CREATE [UNIQUE] of a kind.
func (q query) creates(kind string) bool {
	return q.words(2) == "create "+kind || q.words(3) == "create unique "+kind
}

// hasInOrder reports whether the words stand one after the other somewhere in the statement.
func (q query) hasInOrder(words ...string) bool {
	_, found := q.after(words...)
	return found
}

// after is the place of the token behind the first place where the words stand one after the other.
func (q query) after(words ...string) (int, bool) {
	for i := range q.tokens {
		n := 0
		for n < len(words) && i+n < len(q.tokens) && q.tokens[i+n].kind == tokenWord && q.name(i+n) == words[n] {
			n++
		}
		if n == len(words) {
			return i + n, true
		}
	}
	return 0, false
}

// indexName is the name of the index in CREATE INDEX CONCURRENTLY IF NOT EXISTS name, as the catalogue has it, or "".
func (q query) indexName() string {
	i, found := q.after("concurrently", "if", "not", "exists")
	if !found || i >= len(q.tokens) || !q.creates("index") {
		return ""
	}
	t := q.tokens[i]
	switch text := q.src[t.start:t.end]; t.kind {
	case tokenWord:
		return strings.Map(func(r rune) rune { // as the server does: other letters stay what they are
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}, text)
	case tokenQuoted:
		return strings.ReplaceAll(strings.Trim(text, `"`), `""`, `"`)
	default:
		return ""
	}
}

// tame reports whether the statement is plain DDL, which leaves nothing behind in the session.
func (q query) tame() bool {
	switch q.words(1) {
	case "create", "alter", "drop", "comment", "grant", "revoke":
	default:
		return false
	}
	if q.has("temp") || q.has("temporary") || q.has("values") || q.has("execute") && !q.hasInOrder("execute", "function") {
		return false
	}
	return !q.has("select") || q.words(2) == "create view" || q.words(4) == "create or replace view"
}

// foreignTarget returns the name of what the statement makes, changes or removes, if it lies in a schema that the statement names.
func (q query) foreignTarget() string {
	switch q.words(1) {
	case "create", "alter", "drop", "insert", "update", "delete", "truncate", "merge":
	default:
		return ""
	}
	if name := q.qualified(1); name != "" {
		return name
	}
	if i, found := q.after("on"); found && (q.creates("index") || q.words(1) == "create" && (q.has("trigger") || q.has("rule") || q.has("policy"))) {
		return q.qualified(i)
	}
	return ""
}

// objectWords are those that stand between a command and the name of what it works on.
var objectWords = strings.Fields(`or replace table view materialized index unique function procedure aggregate trigger constraint type domain
	sequence statistics if not exists concurrently only into from recursive rule policy unlogged foreign cascaded column`)

// qualified returns the first name from the i-th token on that is not one of objectWords, if a schema stands before it.
func (q query) qualified(i int) string {
	for i < len(q.tokens) && q.tokens[i].kind == tokenWord && slices.Contains(objectWords, q.name(i)) {
		i++
	}
	if i+2 >= len(q.tokens) || q.name(i) == "" || q.symbol(i+1) != '.' || q.name(i) == "pg_catalog" {
		return ""
	}
	return q.src[q.tokens[i].start:q.tokens[i+2].end]
}

// scopeSettings are the settings that make the scope of a migration.
var scopeSettings = []string{"search_path", "role", "session_authorization"}

const scopeMessage = "%s leaves the scope of the schema that is being migrated; names without a schema already mean that one"

// refusal says why the statement may not stand in a migration, or "".
func (q query) refusal(transaction bool) string {
	if name := q.foreignTarget(); name != "" {
		return fmt.Sprintf("%s lies in a schema that is named; leave the schema out: the name alone means the one that is being migrated, in every tenant", name)
	}
	for i := range q.tokens {
		if strings.HasPrefix(q.name(i), "pg_advisory_unlock") {
			return "pg_advisory_unlock could free the lock that keeps other runners away; locks of a transaction (pg_advisory_xact_lock) end by themselves"
		}
		if q.name(i) == ledgerName {
			return ledgerName + " is where it is recorded what was applied; leave it alone"
		}
	}
	switch q.words(2) {
	case "create schema", "alter schema", "drop schema":
		return "a migration works inside one schema and leaves schemas alone"
	case "create extension":
		if !q.has("schema") {
			return "an extension belongs to the whole database and would land in the first tenant's schema; install it once, in a schema of its own"
		}
	}
	switch first := q.words(1); first {
	case "begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release":
		return transactionMessage(first)
	case "prepare":
		if q.words(2) == "prepare transaction" {
			return transactionMessage("prepare transaction")
		}
	case "set":
		return q.refuseSet()
	case "reset", "discard":
		return fmt.Sprintf(scopeMessage, strings.ToUpper(first))
	case "copy":
		if q.has("stdin") || q.has("stdout") {
			return "COPY cannot read from STDIN or write to STDOUT here; use INSERT"
		}
	case "vacuum":
		if transaction {
			return `VACUUM needs a file of its own, with "-- migrate:up transaction:false"`
		}
	}
	if transaction && q.concurrently() {
		return `CONCURRENTLY needs a file of its own, with "-- migrate:up transaction:false"`
	}
	return q.refuseSetConfig()
}

func transactionMessage(command string) string {
	return strings.ToUpper(command) + " does not belong in a migration: each file runs in a transaction of its own, or in none with transaction:false"
}

// refuseSet looks at SET [SESSION|LOCAL] name.
func (q query) refuseSet() string {
	i, local := 1, false
	switch q.words(3) {
	case "set session authorization", "set session characteristics":
	default:
		switch q.words(2) {
		case "set local":
			i, local = 2, true
		case "set session":
			i = 2
		}
	}
	switch name := q.name(i); {
	case name == "session" && q.name(i+1) == "authorization":
		return fmt.Sprintf(scopeMessage, "SET SESSION AUTHORIZATION")
	case name == "schema", slices.Contains(scopeSettings, name):
		return fmt.Sprintf(scopeMessage, "SET "+name)
	case name == "constraints", name == "transaction", local:
		return ""
	default:
		return "SET would also hold for the files after this one; use SET LOCAL"
	}
}

// refuseSetConfig looks for set_config('search_path', …) and the like. A name put together at run time is not found here but
// when the file is recorded.
func (q query) refuseSetConfig() string {
	for i := range q.tokens {
		if q.name(i) != "set_config" {
			continue
		}
		for _, t := range q.tokens[i:] {
			text := strings.ToLower(q.src[t.start:t.end])
			name := strings.Trim(strings.TrimPrefix(text, "e"), "'")
			if t.kind == tokenString && slices.Contains(scopeSettings, name) {
				return fmt.Sprintf(scopeMessage, "set_config('"+name+"', …)")
			}
		}
	}
	return ""
}
