package migrate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// splitCases are inputs with the statements that the server sees in them, each without the space around it.
var splitCases = []struct {
	name, src string
	want      []string
	// foreign inputs are not fit to be run on a server.
	foreign bool
}{
	{name: "nothing", src: "", want: nil},
	{name: "space and comments", src: " \n-- a; b\n/* ; */ ", want: nil},
	{name: "two", src: "SELECT 1;\nSELECT 2", want: []string{"SELECT 1", "SELECT 2"}},
	{name: "empty statements", src: ";;SELECT 1;;", want: []string{"SELECT 1"}},
	{name: "literal", src: "SELECT ';', 'it''s;';SELECT 2", want: []string{"SELECT ';', 'it''s;'", "SELECT 2"}},
	{name: "backslash in a plain literal", src: `SELECT '\';SELECT 2`, want: []string{`SELECT '\'`, "SELECT 2"}},
	{name: "escapes", src: `SELECT E'\';', e'\\';SELECT 2`, want: []string{`SELECT E'\';', e'\\'`, "SELECT 2"}},
	{name: "escapes go on", src: "SELECT E'a'\n'\\';';SELECT 2", want: []string{"SELECT E'a'\n'\\';'", "SELECT 2"}},
	{name: "escapes go on behind a comment", src: "SELECT E'a' -- x\n '\\';';SELECT 2", want: []string{"SELECT E'a' -- x\n '\\';'", "SELECT 2"}},
	{name: "escapes do not go on in a line", src: `SELECT E'a' AS e;SELECT '\'`, want: []string{`SELECT E'a' AS e`, `SELECT '\'`}},
	{name: "a name that ends in e", src: `SELECT date'2020-01-01';SELECT '\'`, want: []string{`SELECT date'2020-01-01'`, `SELECT '\'`}},
	{name: "unicode and bit literals", src: `SELECT U&'d\0061t;', B'1', X'1f', N';';SELECT 2`, want: []string{`SELECT U&'d\0061t;', B'1', X'1f', N';'`, "SELECT 2"}},
	{name: "quoted name", src: `SELECT 1 AS "a;""b";SELECT 2`, want: []string{`SELECT 1 AS "a;""b"`, "SELECT 2"}},
	{name: "dollar quotes", src: "SELECT $$;'$$, $a$ $$; $b$ $a$;SELECT 2", want: []string{"SELECT $$;'$$, $a$ $$; $b$ $a$", "SELECT 2"}},
	{name: "dollar in a name", src: "SELECT 1 AS a$b$;SELECT 2 AS c$b$", want: []string{"SELECT 1 AS a$b$", "SELECT 2 AS c$b$"}},
	{name: "nested comment", src: "SELECT /* a /* ; */ ; */ 1;SELECT 2", want: []string{"SELECT /* a /* ; */ ; */ 1", "SELECT 2"}},
	{name: "comment at once after an operator", src: "SELECT 1 +--;\n2;SELECT 3", want: []string{"SELECT 1 +--;\n2", "SELECT 3"}},
	{name: "letters of other scripts", src: "SELECT 'ü;' AS größe;SELECT 2", want: []string{"SELECT 'ü;' AS größe", "SELECT 2"}},
	{name: "do block", src: "DO $$ BEGIN NULL; END $$;SELECT 2", want: []string{"DO $$ BEGIN NULL; END $$", "SELECT 2"}},
	{
		name: "atomic function",
		src:  "CREATE FUNCTION pg_temp.f(a int) RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE a WHEN 1 THEN 2 END AS case; END;SELECT 2",
		want: []string{"CREATE FUNCTION pg_temp.f(a int) RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE a WHEN 1 THEN 2 END AS case; END", "SELECT 2"},
	},
	{
		name: "atomic procedure",
		src:  "create or replace procedure pg_temp.p() begin atomic select 1 as end; end;SELECT 2",
		want: []string{"create or replace procedure pg_temp.p() begin atomic select 1 as end; end", "SELECT 2"},
	},
	{
		name: "rule",
		src:  "CREATE TEMP TABLE r (a int);CREATE RULE x AS ON INSERT TO r DO ALSO (SELECT 1; SELECT 2);SELECT 2",
		want: []string{"CREATE TEMP TABLE r (a int)", "CREATE RULE x AS ON INSERT TO r DO ALSO (SELECT 1; SELECT 2)", "SELECT 2"},
	},
	{name: "literal without an end", src: "SELECT 1; SELECT 'a;", want: []string{"SELECT 1", "SELECT 'a;"}, foreign: true},
	{name: "comment without an end", src: "SELECT 1; /* a; ", want: []string{"SELECT 1", "/* a; "}, foreign: true},
	{name: "parentheses without a beginning", src: "SELECT 1); SELECT 2", want: []string{"SELECT 1)", "SELECT 2"}, foreign: true},
}

func significant(src string) []string {
	var got []string
	for _, st := range split(src) {
		if len(st.tokens) > 0 {
			got = append(got, src[st.tokens[0].start:st.tokens[len(st.tokens)-1].end])
		}
	}
	return got
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, tt := range splitCases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, significant(tt.src)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The server answers each statement of a simple query once, and an empty query once too.
func TestSplitAgreesWithTheServer(t *testing.T) {
	t.Parallel()
	conn := pgtest.Connect(t, pgtest.Database(t))
	for _, tt := range splitCases {
		if tt.foreign {
			continue
		}
		results, err := conn.PgConn().Exec(t.Context(), tt.src).ReadAll()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if want := max(len(tt.want), 1); len(results) != want {
			t.Errorf("%s: the server saw %d statements, want %d", tt.name, len(results), want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, tt := range splitCases {
		f.Add(tt.src)
	}
	f.Add("-- migrate:up\nCREATE FUNCTION f() BEGIN ATOMIC CASE END;$")
	f.Fuzz(func(t *testing.T, src string) {
		var joined strings.Builder
		for _, st := range split(src) {
			if st.start >= st.end {
				t.Fatalf("empty statement at %d", st.start)
			}
			joined.WriteString(src[st.start:st.end])
			at := st.start
			for _, token := range st.tokens {
				if token.start < at || token.end <= token.start || token.end > st.end {
					t.Fatalf("token %v in statement %d-%d after %d", token, st.start, st.end, at)
				}
				at = token.end
			}
		}
		if joined.String() != src {
			t.Fatalf("joined %q, input %q", joined.String(), src)
		}
		// What is looked at once more, alone, is still one statement, unless it has no end.
		for _, text := range significant(src) {
			if again := significant(text); len(again) != 1 || again[0] != text {
				t.Fatalf("%q became %q", text, again)
			}
		}
	})
}
