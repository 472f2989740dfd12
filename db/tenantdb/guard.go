package tenantdb

import (
	"fmt"
	"regexp"
	"strings"
)

// class says where a statement may run.
type class uint8

const (
	// plain statements run anywhere.
	plain class = iota
	// inTransaction statements mean something only between BEGIN and COMMIT.
	inTransaction
	// inSession statements leave something on the connection that outlives the call.
	inSession
	// refused statements would end the scope.
	refused
)

// scopeSettings finds set_config called on one of the settings that make the scope.
var scopeSettings = regexp.MustCompile(`(?i)\bset_config\s*\(\s*(?:E?'|\$\$)\s*(?:search_path|role|session_authorization)\b`)

// sessionState finds functions that change what a later call on the connection finds; localSettings those uses of set_config
// that end with the transaction.
var (
	sessionState  = regexp.MustCompile(`(?i)\b(?:set_config|setseed|pg_(?:try_)?advisory_lock(?:_shared)?)\s*\(`)
	localSettings = regexp.MustCompile(`(?i)\bset_config\s*\(\s*'[^']*'\s*,[^()]*,\s*true\s*\)`)
)

// heldCursor finds cursors that would keep one tenant's rows on the connection after COMMIT.
var heldCursor = regexp.MustCompile(`(?i)\bhold\b`)

// temporary finds temporary tables, and dropped those that end with their transaction. Literals are taken out first.
var (
	temporary = regexp.MustCompile(`(?i)^create\s+(?:or\s+replace\s+)?(?:(?:global|local)\s+)?temp(?:orary)?\b|^create\b[^;]*\bpg_temp\s*\.|` +
		`^(?:select|with)\b[^;]*\binto\s+(?:(?:global|local)\s+)?temp(?:orary)?\s+(?:table\s+)?["a-z_]`)
	dropped = regexp.MustCompile(`(?i)\bon\s+commit\s+drop\b`)
	literal = regexp.MustCompile(`'[^']*'`)
)

// classify reads the first words of a statement. It catches mistakes; it is no defence against SQL written to deceive it.
func classify(sql string) class {
	words := firstWords(sql, 3)
	second, third := words[1], words[2]
	switch words[0] {
	case "begin", "start", "commit", "end", "abort", "discard", "load":
		return refused
	case "prepare":
		if second == "transaction" {
			return refused
		}
		return inSession
	case "deallocate":
		if second == "all" || second == "prepare" && third == "all" { // our own names are among them
			return refused
		}
		return inSession
	case "execute", "listen", "unlisten":
		return inSession
	case "rollback":
		if second == "to" || third == "to" { // ROLLBACK [WORK|TRANSACTION] TO SAVEPOINT
			return inTransaction
		}
		return refused
	case "declare":
		if heldCursor.MatchString(sql) {
			return inSession
		}
		return inTransaction
	case "savepoint", "release", "fetch", "move", "close", "lock":
		return inTransaction
	case "set", "reset":
		return classifySet(words)
	case "call", "do": // outside a transaction block they may COMMIT, and the rest would run without the scope
		return inTransaction
	}
	switch {
	case scopeSettings.MatchString(sql):
		return refused
	case sessionState.MatchString(localSettings.ReplaceAllString(sql, "")):
		return inSession
	case temporary.MatchString(literal.ReplaceAllString(skipBlank(sql), "''")):
		if dropped.MatchString(sql) {
			return inTransaction
		}
		return inSession
	}
	return plain
}

func classifySet(words []string) class {
	what, how := words[1], inSession
	switch {
	case words[0] == "set" && (what == "constraints" || what == "transaction"):
		return inTransaction
	case words[0] == "set" && what == "local":
		what, how = words[2], inTransaction
	case words[0] == "set" && what == "session" && words[2] != "characteristics":
		what = words[2]
	}
	switch what {
	case "search_path", "schema", "role", "session", "session_authorization", "authorization", "": // "" is a quoted name
		return refused
	}
	return how
}

// checkClass returns the error for a statement of class c, inside or outside of a transaction or a session of one's own.
func checkClass(c class, sql string, inTx, pinned bool) error {
	switch {
	case c == refused:
		return fmt.Errorf("%w: %s: it would change or end the scope of the call; use Begin for transactions", ErrRefused, excerpt(sql))
	case c == inSession && !pinned:
		return fmt.Errorf("%w: %s: it would outlive the call, for the next tenant to find; use Acquire for a session of your own",
			ErrRefused, excerpt(sql))
	case c == inTransaction && !inTx:
		return fmt.Errorf("%w: %s: it means nothing outside a transaction; use Begin or InTx", ErrRefused, excerpt(sql))
	}
	return nil
}

// excerpt shows the head of a statement in an error: its first words, without values.
func excerpt(sql string) string {
	words := firstWords(sql, 3)
	return strings.ToUpper(strings.TrimSpace(strings.Join(words, " ")))
}

// firstWords returns the first n words of sql in lower case, without comments. Missing words are empty.
func firstWords(sql string, n int) []string {
	words := make([]string, n)
	rest := sql
	for i := range words {
		rest = skipBlank(rest)
		end := 0
		for end < len(rest) && isWordByte(rest[end]) {
			end++
		}
		if end == 0 {
			break
		}
		words[i] = strings.ToLower(rest[:end])
		rest = rest[end:]
	}
	return words
}

func isWordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// skipBlank drops leading white space, comments and empty statements.
func skipBlank(s string) string {
	for {
		s = strings.TrimLeft(s, " \t\r\n\f\v;")
		switch {
		case strings.HasPrefix(s, "--"):
			end := strings.IndexAny(s, "\r\n") // either ends a comment, says PostgreSQL
			if end < 0 {
				return ""
			}
			s = s[end:]
		case strings.HasPrefix(s, "/*"):
			s = skipBlockComment(s)
		default:
			return s
		}
	}
}

// skipBlockComment drops a leading block comment; they nest.
func skipBlockComment(s string) string {
	depth := 0
	for i := 0; i+1 < len(s); i++ {
		switch s[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return s[i+1:]
			}
		}
	}
	return ""
}
