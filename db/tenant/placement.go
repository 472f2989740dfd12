package tenant

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"regexp"
	"strings"
)

// Strategy is a way to house a tenant.
type Strategy string

// The two strategies. In both the tenant's tables stand in a schema of its own, which a NOLOGIN role of its own may use, so
// that a call is held to its tenant in the same way, and a tenant can move from one to the other.
const (
	// SchemaStrategy houses the schema in a database that the cluster's tenants share. Runtime logins serve many tenants.
	SchemaStrategy Strategy = "schema"
	// DatabaseStrategy houses the schema in a database of the tenant's own. A login of its own can connect there and nowhere
	// else.
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
	// Login is the login that may take the role: a runtime login, "" meaning the default one, or, with a database of the
	// tenant's own, the tenant's own login.
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
	suffix := label(slug) + "_" + idEncoding.EncodeToString(id[:])
	return Placement{
		Cluster:  cluster,
		Strategy: SchemaStrategy,
		Database: database,
		Schema:   "t_" + suffix,
		Role:     "r_" + suffix,
	}
}

// OwnDatabase returns the placement of the same tenant in a database of its own in the given cluster, under the same schema and
// role. The database's name is made of the head of the slug and 80 random bits, so it is another one each time. The login's is
// that of the role, with another letter in front.
func (p Placement) OwnDatabase(slug Slug, cluster string) Placement {
	var random [10]byte
	_, _ = rand.Read(random[:]) // it never fails
	name := label(slug) + "_" + idEncoding.EncodeToString(random[:])
	if checkName("database", name) != nil { // it begins with a digit, or as PostgreSQL's own do
		name = "_" + name
	}
	p.Cluster, p.Strategy, p.Database = cluster, DatabaseStrategy, name
	p.Login = "l_" + strings.TrimPrefix(p.Role, "r_")
	return p
}

// label is the head of a slug as a part of a name.
func label(slug Slug) string {
	label := strings.ReplaceAll(string(slug), "-", "_")
	return label[:min(len(label), nameLabelLen)]
}

// Validate checks that the names of the schema, the role and, if there is one, the login are safe to appear in SQL unquoted:
// [a-z0-9_], not starting with a digit, at most 63 bytes, and not one of PostgreSQL's own (pg_…). No role is called none: setting
// the role to none gives up the role that is set. A database of the tenant's own obeys the same rules, and has a login; the name of a
// shared one is the operator's choice.
func (p Placement) Validate() error {
	names := []struct{ kind, name string }{{"schema", p.Schema}, {"role", p.Role}}
	switch p.Strategy {
	case SchemaStrategy:
		if p.Login != "" {
			names = append(names, struct{ kind, name string }{"login", p.Login})
		}
	case DatabaseStrategy:
		names = append(names, struct{ kind, name string }{"login", p.Login}, struct{ kind, name string }{"database", p.Database})
	default:
		return fmt.Errorf("placement: unknown strategy %q; want %q or %q", p.Strategy, SchemaStrategy, DatabaseStrategy)
	}
	for _, n := range names {
		if err := checkName(n.kind, n.name); err != nil {
			return err
		}
	}
	if p.Role == "none" {
		return fmt.Errorf("placement: role name %q means no role", p.Role)
	}
	return nil
}

func checkName(kind, name string) error {
	if len(name) > maxNameLen || !namePattern.MatchString(name) || strings.HasPrefix(name, "pg_") {
		return fmt.Errorf("placement: %s name %q: want 1 to %d characters of a-z, 0-9 and _, not starting with a digit or pg_",
			kind, name, maxNameLen)
	}
	return nil
}
