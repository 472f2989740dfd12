package pgdump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

const (
	// connectTimeout bounds a connection attempt whose configuration has no bound.
	connectTimeout = 15 * time.Second
	// closeTimeout bounds what is still said to the server, and waited for, when pg_dump has ended.
	closeTimeout = 5 * time.Second
	// ledgerName is the table in which dbmate keeps the versions of what was applied.
	ledgerName = "schema_migrations"
)

// Sentinel errors; compare with errors.Is.
var (
	// ErrNoProgram reports that there is no pg_dump, or none that is new enough for the server. The text around it says what was
	// found and what to install.
	ErrNoProgram = errors.New("no pg_dump for this server")
	// ErrSchemaMissing reports a schema that is not in the database.
	ErrSchemaMissing = errors.New("schema does not exist")
)

// Config says what to dump. Conn and Schema are required.
type Config struct {
	// Conn says how to connect to the schema's database, as a role that may read all of the schema. It is copied, not changed.
	Conn *pgx.ConnConfig
	// Schema is the schema's name: at most 63 of a-z, 0-9 and _, not beginning with a digit or pg_.
	Schema string
	// Name is what the schema is called in the dump, which then creates it. The same characters are allowed; a key word of SQL
	// will not do. Defaults to none: names are unqualified, and the dump is loaded into the first schema of the search_path.
	Name string
	// Role is the tenant's own role. Where the schema names it, as a policy may, the dump says tenant_role. Defaults to none.
	Role string
	// BinDir is the folder with the program pg_dump. Defaults to the folder on PATH, by pg_config or among those of the
	// distributions whose pg_dump is the oldest that is not older than the server.
	BinDir string
}

func (c Config) validate() error {
	if c.Conn == nil {
		return errors.New("no Conn in the Config")
	}
	names := tenant.Placement{Strategy: tenant.SchemaStrategy, Schema: c.Schema, Role: "unused"}
	err := names.Validate()
	if c.Name != "" {
		names.Schema = c.Name
		err = errors.Join(err, names.Validate())
	}
	if c.Role != "" {
		names.Role = c.Role
		err = errors.Join(err, names.Validate())
	}
	return err
}

// Schema returns the definition of everything in a schema, as SQL in UTF-8, and at its end the versions in dbmate's ledger if the
// schema has one. It changes nothing in the database.
//
// The error is ErrNoProgram, ErrSchemaMissing, that of connecting, that of the context, or what pg_dump said. It never holds the
// password.
func Schema(ctx context.Context, cfg Config) ([]byte, error) {
	text, err := cfg.dump(ctx)
	switch {
	case err == nil:
		return text, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("dump schema %q: %w: %w", cfg.Schema, contextError(ctx), err)
	default:
		return nil, fmt.Errorf("dump schema %q: %w", cfg.Schema, err)
	}
}

// contextError is the error of an ended context, with the cause if it was given one.
func contextError(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}

func (c Config) dump(ctx context.Context) ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, c.connConfig())
	if err != nil {
		return nil, err
	}
	raw, versions, err := c.read(ctx, conn)
	if err != nil {
		return nil, errors.Join(err, closeConn(ctx, conn))
	}
	return c.tidy(raw, versions), nil
}

func (c Config) connConfig() *pgx.ConnConfig { return sessionConfig(c.Conn) }

// sessionConfig is how a session is opened that is passed on.
func sessionConfig(conn *pgx.ConnConfig) *pgx.ConnConfig {
	cc := conn.Copy()
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing may be prepared in a session that is passed on
	cc.StatementCacheCapacity, cc.DescriptionCacheCapacity = 0, 0
	cc.RuntimeParams["application_name"] = "leasehold dump"
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = connectTimeout
	}
	return cc
}

func closeConn(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return conn.Close(ctx)
}

// read returns what pg_dump writes, and the versions in the ledger. If it succeeds the connection is used up.
func (c Config) read(ctx context.Context, conn *pgx.Conn) (raw []byte, versions []string, err error) {
	table := pgx.Identifier{c.Schema, ledgerName}.Sanitize()
	var (
		schemaExists, ledgerExists bool
		version                    int
	)
	err = conn.QueryRow(ctx, `select exists (select from pg_catalog.pg_namespace where nspname = $1), to_regclass($2) is not null,
		current_setting('server_version_num')::integer`, c.Schema, table).Scan(&schemaExists, &ledgerExists, &version)
	if err != nil {
		return nil, nil, err
	}
	if !schemaExists {
		return nil, nil, fmt.Errorf("%w in database %q", ErrSchemaMissing, conn.Config().Database)
	}
	if ledgerExists {
		rows, err := conn.Query(ctx, `select version from `+table+` order by version`)
		if err != nil {
			return nil, nil, err
		}
		if versions, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return nil, nil, err
		}
	}
	program, err := find(ctx, programName, c.BinDir, version/10000)
	if err != nil {
		return nil, nil, err
	}
	raw, err = c.run(ctx, program, conn)
	return raw, versions, err
}

// run has the program dump the schema through the connection.
func (c Config) run(ctx context.Context, program string, conn *pgx.Conn) ([]byte, error) {
	var out bytes.Buffer
	err := through(ctx, program, conn, &out,
		"--format=plain", "--schema-only", "--strict-names", `--schema="`+c.Schema+`"`,
		"--no-owner", "--no-privileges", "--no-tablespaces", "--no-table-access-method",
		"--no-security-labels", "--no-publications", "--no-subscriptions")
	return out.Bytes(), err
}

// environment is what a program gets: nothing of the caller's, whose variables may hold passwords, and messages in English.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=/"}
}

// said is what a program wrote on its standard error, on one line.
func said(stderr string) string {
	const enough = 2000
	text := strings.Join(strings.Fields(stderr), " ")
	if len(text) > enough {
		text = strings.ToValidUTF8(text[:enough], "") + "…"
	}
	if text == "" {
		return ""
	}
	return ": " + text
}
