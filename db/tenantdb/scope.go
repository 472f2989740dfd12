package tenantdb

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenant"
)

const (
	// scopeSQL holds a flight to a tenant until the end of its transaction. It selects no row, because a row costs more than the
	// settings; both sides of the comparison are evaluated, and a path is never equal to a role. $2 is only read: it is
	// declared as a regnamespace, and the server fails the flight when the schema is missing, or the name is not one name.
	scopeSQL  = "SELECT WHERE pg_catalog.set_config('search_path', $1, true) = pg_catalog.set_config('role', $3, true)"
	scopeName = "lh_scope"
	// settingSQL sets one more setting. The result of set_config is never null, so the next one is evaluated too.
	settingSQL = " OR pg_catalog.set_config($%d, $%d, true) IS NULL"
)

const regnamespaceOID = 4089

// maxSettings bounds Config.Settings: each number of settings is a statement of its own on each connection.
const maxSettings = 32

// scope is what holds a call to one tenant, in the form in which it is sent. Everything but own is immutable. It is also the
// first half of the key of a named statement: a tenant that moved gets a new scope, and so new statements.
type scope struct {
	tenant *tenant.Tenant
	// name and sql are the scope's statement, oids and args its parameters: search_path, schema, role, then the settings, name
	// and value. The same number of settings is the same statement.
	name, sql string
	oids      []uint32
	args      [][]byte
	// beginSQL is appended to BEGIN. What it quotes has no quote in it.
	beginSQL string
	// load says how many connections the tenant holds. A scope that replaces another one of the tenant takes it over.
	load *load
	// own holds the descriptions that are known to fit this tenant.
	own *descriptions
}

func newScope(t *tenant.Tenant, cfg Config) (*scope, error) {
	if err := t.Placement.Validate(); err != nil {
		return nil, fmt.Errorf("tenant %s: %w", t.Slug, err)
	}
	schema := pgx.Identifier{t.Placement.Schema}.Sanitize()
	path := schema
	if cfg.ExtensionSchema != "" {
		path += ", " + pgx.Identifier{cfg.ExtensionSchema}.Sanitize()
	}
	// pg_temp is named so that it comes last: a temporary table must not stand in front of a tenant's own.
	path += ", pg_temp"
	d := doorOf(t.Placement, cfg)
	s := &scope{
		tenant: t, name: scopeName, sql: scopeSQL,
		oids: []uint32{pgtype.TextOID, regnamespaceOID, pgtype.TextOID},
		args: [][]byte{[]byte(path), []byte(schema), []byte(t.Placement.Role)},
		beginSQL: fmt.Sprintf("; SELECT '%s'::pg_catalog.regnamespace, pg_catalog.set_config('search_path', '%s', true), "+
			"pg_catalog.set_config('role', '%s', true)", schema, path, t.Placement.Role),
		load: &load{id: t.ID, door: d, login: d.Login},
		own:  newDescriptions(descriptionsPerTenant),
	}
	if cfg.Settings == nil {
		return s, nil
	}
	if err := s.addSettings(cfg.Settings(t)); err != nil {
		return nil, fmt.Errorf("tenant %s: %w", t.Slug, err)
	}
	return s, nil
}

var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*$`)

// reservedSettings are the scope's own, and those that say in what form values travel.
var reservedSettings = []string{
	"search_path", "role", "session_authorization", "client_encoding", "standard_conforming_strings",
	"datestyle", "intervalstyle", "bytea_output", "extra_float_digits",
}

// addSettings makes settings part of the scope.
func (s *scope) addSettings(settings map[string]string) error {
	if len(settings) > maxSettings {
		return fmt.Errorf("%d settings; want at most %d", len(settings), maxSettings)
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := settings[name]
		switch {
		case !settingName.MatchString(name):
			return fmt.Errorf("setting %q: want a name of a-z, 0-9, _ and dots", name)
		case slices.Contains(reservedSettings, name):
			return fmt.Errorf("setting %q belongs to the scope or to the driver", name)
		case strings.ContainsAny(value, "'\\\x00"):
			return fmt.Errorf("setting %q: its value has a quote, a backslash or a zero byte", name)
		}
		s.sql += fmt.Sprintf(settingSQL, len(s.args)+1, len(s.args)+2)
		s.oids = append(s.oids, pgtype.TextOID, pgtype.TextOID)
		s.args = append(s.args, []byte(name), []byte(value))
		s.beginSQL += fmt.Sprintf(", pg_catalog.set_config('%s', '%s', true)", name, value)
	}
	if len(settings) > 0 {
		s.name = fmt.Sprintf("%s_%d", scopeName, len(settings))
	}
	return nil
}

// holdsLike reports whether the two scopes hold a call to the same place in the same way.
func (s *scope) holdsLike(other *scope) bool {
	return s.tenant.Placement == other.tenant.Placement && slices.EqualFunc(s.args, other.args, bytes.Equal)
}
