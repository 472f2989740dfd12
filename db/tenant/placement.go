package tenant

import (
	"encoding/base32"
	"fmt"
	"regexp"
	"strings"
)

// Strategy is a way to house a tenant.
type Strategy string

// The two strategies. At present every tenant is housed by schema.
const (
	// SchemaStrategy gives the tenant a schema of its own in a shared database, and a NOLOGIN role that reaches only that
	// schema.
	SchemaStrategy Strategy = "schema"
	// DatabaseStrategy gives the tenant a database of its own, and a login that can connect nowhere else.
	DatabaseStrategy Strategy = "database"
)

// DefaultCluster is the cluster that holds the registry itself.
const DefaultCluster = "default"

// Placement says where a tenant's data lives, and who may reach it. The names in it are made by NewPlacement or read from the
// registry, whose constraints hold them to the same grammar; see Validate. Placements can be compared with ==.
type Placement struct {
	Cluster  string
	Strategy Strategy
	Database string
	Schema   string
	Role     string
	// Login is the runtime login that may take the role; "" means the default one.
	Login string
}

// maxNameLen is PostgreSQL's NAMEDATALEN - 1: longer identifiers are cut without an error.
const maxNameLen = 63

// nameLabelLen is how much of the slug a generated name shows. With the prefix, two underscores and 26 characters of id a
// name is at most 2 + 20 + 1 + 26 = 49 bytes long.
const nameLabelLen = 20

var namePattern = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// idEncoding is the base32 alphabet of RFC 4648 "extended hex", lower-case and without padding: 26 characters for an ID.
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewPlacement returns the placement by schema of a new tenant in the given cluster and database. Schema and role carry the
// head of the slug, for the person who reads pg_namespace, and the whole id, which alone makes them unique: the function
// is injective in id, whatever the slug. The login is the default one.
func NewPlacement(id ID, slug Slug, cluster, database string) Placement {
	label := strings.ReplaceAll(string(slug), "-", "_")
	if len(label) > nameLabelLen {
		label = label[:nameLabelLen]
	}
	suffix := label + "_" + idEncoding.EncodeToString(id[:])
	return Placement{
		Cluster:  cluster,
		Strategy: SchemaStrategy,
		Database: database,
		Schema:   "t_" + suffix,
		Role:     "r_" + suffix,
	}
}

// Validate checks that the names of the schema, the role and, if there is one, the login are safe to appear in SQL unquoted:
// [a-z0-9_], not starting with a digit, at most 63 bytes, and not one of PostgreSQL's own (pg_…). No role is called none: setting
// the role to none gives up the role that is set.
func (p Placement) Validate() error {
	if p.Strategy != SchemaStrategy {
		return fmt.Errorf("placement: strategy %q is not supported; want %q", p.Strategy, SchemaStrategy)
	}
	if err := checkName("schema", p.Schema); err != nil {
		return err
	}
	if p.Role == "none" {
		return fmt.Errorf("placement: role name %q means no role", p.Role)
	}
	if err := checkName("role", p.Role); err != nil {
		return err
	}
	if p.Login == "" {
		return nil
	}
	return checkName("login", p.Login)
}

func checkName(kind, name string) error {
	if len(name) > maxNameLen || !namePattern.MatchString(name) || strings.HasPrefix(name, "pg_") {
		return fmt.Errorf("placement: %s name %q: want 1 to %d characters of a-z, 0-9 and _, not starting with a digit or pg_",
			kind, name, maxNameLen)
	}
	return nil
}
