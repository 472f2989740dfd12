package scram_test

import (
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/scram"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// The judge of a verifier is PostgreSQL: it must keep it as it is, and let the right password in and no other.
func TestLogin(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	super := pgtest.SuperURL(t, database)
	passwords := map[string]string{
		"letters":        "QWERTYUIOPASDFGHJKLZXCVBNM",
		"one character":  "x",
		"spaces":         " a  b ",
		"quotes":         `it's "$1" \ {}|~!`,
		"very long":      strings.Repeat("0123456789abcdef", 64),
		"looks like one": "SCRAM-SHA-256$4096:AAAA$BBBB:CCCC",
	}
	for name, password := range passwords {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			role := "scram_" + strings.ReplaceAll(name, " ", "_")
			verifier, err := scram.Verifier(password)
			if err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, super, `CREATE ROLE `+role+` LOGIN PASSWORD '`+verifier+`'`)

			var kept string
			if err := pgtest.Connect(t, super).QueryRow(t.Context(), `SELECT rolpassword FROM pg_authid WHERE rolname = $1`, role).Scan(&kept); err != nil {
				t.Fatal(err)
			}
			if kept != verifier {
				t.Errorf("PostgreSQL keeps %q, not the verifier", kept)
			}
			if err := login(t, database, role, password); err != nil {
				t.Errorf("the right password: %v", err)
			}
			var refused *pgconn.PgError
			if err := login(t, database, role, password+"x"); !errors.As(err, &refused) || refused.Code != "28P01" {
				t.Errorf("a wrong password: %v, want 28P01", err)
			}
		})
	}
}

func login(t *testing.T, database, role, password string) error {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		return err
	}
	return conn.Close(t.Context())
}

func TestVerifierRefuses(t *testing.T) {
	t.Parallel()
	for name, password := range map[string]string{
		"empty":        "",
		"beyond ASCII": "pässword",
		"control":      "a\nb",
		"NUL":          "a\x00b",
		"DEL":          "a\x7fb",
		"too long":     strings.Repeat("x", 1025),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := scram.Verifier(password); !errors.Is(err, scram.ErrPassword) || got != "" {
				t.Errorf("got %q, %v, want ErrPassword", got, err)
			}
		})
	}
}

func TestVerifierIsSalted(t *testing.T) {
	t.Parallel()
	a, errA := scram.Verifier("secret")
	b, errB := scram.Verifier("secret")
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Error("two verifiers of one password are equal")
	}
}
