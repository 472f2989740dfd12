package migrate

import (
	"strings"
)

// tokenKind is what the checks need to know of a piece of SQL.
type tokenKind uint8

const (
	tokenSpace        tokenKind = iota // white space or a comment
	tokenWord                          // a key word or an unquoted identifier
	tokenQuoted                        // "an identifier"
	tokenString                        // 'a literal' or E'a literal'
	tokenDollar                        // $tag$ a literal $tag$
	tokenSymbol                        // one byte of anything else
	tokenUnterminated                  // a comment or literal without an end, up to the end of the input
)

type token struct {
	kind       tokenKind
	start, end int
}

// statement is a part of the input up to and including its semicolon. The parts of an input joined are the input.
type statement struct {
	start, end int
	// tokens leaves out space and the final semicolon. It is empty for a part that the server takes for nothing.
	tokens []token
}

// nextToken reads the token at src[pos:], which must not be empty, by the rules of PostgreSQL's scanner with
// standard_conforming_strings on.
func nextToken(src string, pos int) token {
	rest := src[pos:]
	switch c := rest[0]; {
	case isSpace(c):
		n := 1
		for n < len(rest) && isSpace(rest[n]) {
			n++
		}
		return token{tokenSpace, pos, pos + n}
	case strings.HasPrefix(rest, "--"):
		return token{tokenSpace, pos, pos + lineEnd(rest)}
	case strings.HasPrefix(rest, "/*"):
		return terminated(tokenSpace, src, pos, commentLen(rest))
	case c == '\'':
		return terminated(tokenString, src, pos, quotedLen(rest, '\''))
	case c == '"':
		return terminated(tokenQuoted, src, pos, quotedLen(rest, '"'))
	case (c == 'e' || c == 'E') && len(rest) > 1 && rest[1] == '\'':
		return terminated(tokenString, src, pos, escapedLen(rest))
	case c == '$':
		if tag := dollarTag(rest); tag != "" {
			n := strings.Index(rest[len(tag):], tag)
			if n >= 0 {
				n += 2 * len(tag)
			}
			return terminated(tokenDollar, src, pos, n)
		}
	case isWordStart(c), isDigit(c):
		n := 1
		for n < len(rest) && (isWordStart(rest[n]) || isDigit(rest[n]) || rest[n] == '$' && isWordStart(c)) {
			n++
		}
		if isDigit(c) {
			return token{tokenSymbol, pos, pos + n}
		}
		return token{tokenWord, pos, pos + n}
	}
	return token{tokenSymbol, pos, pos + 1}
}

// terminated makes a token of n bytes, or of all the rest if n is negative.
func terminated(kind tokenKind, src string, pos, n int) token {
	if n < 0 {
		return token{tokenUnterminated, pos, len(src)}
	}
	return token{kind, pos, pos + n}
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isWordStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

// lineEnd is the length of s up to its first line break.
func lineEnd(s string) int {
	if n := strings.IndexAny(s, "\r\n"); n >= 0 {
		return n
	}
	return len(s)
}

// commentLen is the length of the block comment at the head of s, or -1. Comments nest.
func commentLen(s string) int {
	depth := 0
	for i := 0; i+1 < len(s); {
		switch s[i : i+2] {
		case "/*":
			depth++
			i += 2
		case "*/":
			depth--
			i += 2
			if depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return -1
}

// quotedLen is the length of the literal at the head of s, which begins with quote, or -1. A doubled quote stands for one.
func quotedLen(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		if i+1 < len(s) && s[i+1] == quote {
			i++
			continue
		}
		return i + 1
	}
	return -1
}

// escapedLen is the length of the E'…' literal at the head of s, or -1. A backslash escapes the byte after it. The literal
// goes on, with its escapes, after white space with a line break.
func escapedLen(s string) int {
	for i := 2; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '\'':
			if i+1 < len(s) && s[i+1] == '\'' {
				i++
				continue
			}
			next, ok := continuation(s, i+1)
			if !ok {
				return i + 1
			}
			i = next
		}
	}
	return -1
}

// continuation finds the quote that takes up a literal again after the one before s[pos:], across a line break.
func continuation(s string, pos int) (quote int, ok bool) {
	newline := false
	for pos < len(s) {
		switch {
		case isSpace(s[pos]):
			newline = newline || s[pos] == '\n' || s[pos] == '\r'
			pos++
		case strings.HasPrefix(s[pos:], "--"):
			pos += lineEnd(s[pos:])
		default:
			return pos, newline && s[pos] == '\''
		}
	}
	return 0, false
}

// dollarTag is the opening $tag$ at the head of s, or "".
func dollarTag(s string) string {
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			return s[:i+1]
		case isWordStart(c), isDigit(c) && i > 1:
		default:
			return ""
		}
	}
	return ""
}

// split cuts src where the server cuts it: at semicolons outside of literals, comments, parentheses, and the bodies of SQL
// functions between BEGIN ATOMIC and END.
func split(src string) []statement {
	var (
		out   []statement
		cur   statement
		paren int
		block int
	)
	for pos := 0; pos < len(src); {
		t := nextToken(src, pos)
		pos = t.end
		if t.kind == tokenSpace {
			continue
		}
		if t.kind == tokenSymbol {
			switch src[t.start] {
			case '(':
				paren++
			case ')':
				paren = max(paren-1, 0)
			case ';':
				if paren == 0 && block == 0 {
					cur.end = pos
					out = append(out, cur)
					cur = statement{start: pos}
					continue
				}
			}
		}
		cur.tokens = append(cur.tokens, t)
		block = blockDepth(src, cur.tokens, block)
	}
	if cur.start < len(src) {
		cur.end = len(src)
		out = append(out, cur)
	}
	return out
}

// blockDepth is the depth of BEGIN ATOMIC and CASE after the last of tokens, given the depth before it.
func blockDepth(src string, tokens []token, depth int) int {
	last := len(tokens) - 1
	prev := func(n int) string {
		if last-n < 0 {
			return ""
		}
		return strings.ToLower(src[tokens[last-n].start:tokens[last-n].end])
	}
	if tokens[last].kind != tokenWord || prev(1) == "as" || prev(1) == "." {
		return depth // after AS or a dot, key words are names
	}
	switch prev(0) {
	case "atomic":
		if depth == 0 && prev(1) == "begin" && createsRoutine(src, tokens) {
			return 1
		}
	case "case":
		if depth > 0 {
			return depth + 1
		}
	case "end":
		return max(depth-1, 0)
	}
	return depth
}

// createsRoutine reports whether tokens begin with CREATE [OR REPLACE] FUNCTION or PROCEDURE.
func createsRoutine(src string, tokens []token) bool {
	words := make([]string, 0, 4)
	for _, t := range tokens[:min(len(tokens), 4)] {
		words = append(words, strings.ToLower(src[t.start:t.end]))
	}
	if len(words) < 4 || words[0] != "create" {
		return false
	}
	kind := words[1]
	if kind == "or" {
		kind = words[3]
	}
	return kind == "function" || kind == "procedure"
}
