package tenant_test

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

func TestNewPlacement(t *testing.T) {
	t.Parallel()
	id, err := tenant.ParseID("0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11")
	if err != nil {
		t.Fatal(err)
	}
	want := tenant.Placement{
		Cluster:  tenant.DefaultCluster,
		Strategy: tenant.SchemaStrategy,
		Database: "app",
		Schema:   "t_north_wind_traders_o_06ccbs3t3puc57oabcfmu3qa24",
		Role:     "r_north_wind_traders_o_06ccbs3t3puc57oabcfmu3qa24",
	}
	if diff := cmp.Diff(want, tenant.NewPlacement(id, "north-wind-traders-of-old", tenant.DefaultCluster, "app")); diff != "" {
		t.Error(diff)
	}
}

// THREATS 26: an id has its names for itself, also where ids differ in one bit and slugs are cut, and no server cuts them.
func TestNewPlacementIsInjective(t *testing.T) {
	t.Parallel()
	slugs := []tenant.Slug{"a", "7", "a-b", "a-b-c", tenant.Slug(label40), "b" + tenant.Slug(label40[1:]),
		tenant.Slug(strings.Repeat("a-", 19) + "ab"), tenant.Slug(strings.Repeat("9", tenant.MaxSlugLen))}
	random := rand.New(rand.NewPCG(1, 2))
	ids := []tenant.ID{{}}
	for range 50 {
		var id tenant.ID
		for i := range id {
			id[i] = byte(random.Uint32())
		}
		ids = append(ids, id)
	}
	for _, id := range ids[:2] {
		for bit := range 128 {
			neighbour := id
			neighbour[bit/8] ^= 1 << (bit % 8)
			ids = append(ids, neighbour)
		}
	}

	owners := map[string]tenant.ID{}
	for _, id := range ids {
		for _, slug := range slugs {
			p := tenant.NewPlacement(id, slug, tenant.DefaultCluster, "app")
			if err := p.Validate(); err != nil {
				t.Fatalf("%s %s: %v", id, slug, err)
			}
			for _, name := range []string{p.Schema, p.Role} {
				if len(name) > 63 {
					t.Fatalf("%s %s: %s is %d bytes long", id, slug, name, len(name))
				}
				if owner, taken := owners[name]; taken && owner != id {
					t.Fatalf("%s belongs to both %s and %s", name, owner, id)
				}
				owners[name] = id
			}
		}
	}
}

// nameTable says whether a name may be that of a schema. It is also the seed of FuzzValidate.
var nameTable = map[string]bool{
	"t_acme_0":                    true,
	"acme":                        true,
	"_":                           true,
	"a" + strings.Repeat("_", 62): true,
	"pgx":                         true,
	"t_pg_":                       true,

	"":                            false,
	"a" + strings.Repeat("_", 63): false,
	"a, b, public":                false,
	"a,b":                         false,
	"acme, pg_temp":               false,
	`"a"`:                         false,
	`a"`:                          false,
	`a", "b`:                      false,
	"a'b":                         false,
	"$user":                       false,
	"$1":                          false,
	"a$b":                         false,
	"Acme":                        false,
	"ACME":                        false,
	"0a":                          false,
	"a b":                         false,
	" a":                          false,
	"a ":                          false,
	"a\n":                         false,
	"\na":                         false,
	"a\nb":                        false,
	"a\x00":                       false,
	"a;b":                         false,
	"a.b":                         false,
	"a-b":                         false,
	"a--":                         false,
	"a/*":                         false,
	`a\`:                          false,
	"pg_x":                        false,
	"pg_":                         false,
	"pg_catalog":                  false,
	"pg_temp_3":                   false,
	"\u00e4":                      false,
	"a\u00e4":                     false,
	"\u212a":                      false,
	"\xff":                        false,
}

// validates reports whether Validate accepts the name, which must be the same for a schema, a role and a login.
func validates(t *testing.T, name string) bool {
	t.Helper()
	p := tenant.Placement{Strategy: tenant.SchemaStrategy, Schema: name, Role: "r"}
	schemaErr := p.Validate()
	p.Schema, p.Role = "t", name
	if roleErr := p.Validate(); (roleErr == nil) != (schemaErr == nil) && name != "none" {
		t.Errorf("%q: schema %v, role %v", name, schemaErr, roleErr)
	}
	p.Role, p.Login = "r", name
	if loginErr := p.Validate(); (loginErr == nil) != (schemaErr == nil) && name != "" {
		t.Errorf("%q: schema %v, login %v", name, schemaErr, loginErr)
	}
	return schemaErr == nil
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, want := range nameTable {
		t.Run(strconv.QuoteToASCII(name), func(t *testing.T) {
			t.Parallel()
			if got := validates(t, name); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
	for name, p := range map[string]tenant.Placement{
		"zero":               {},
		"no strategy":        {Schema: "t", Role: "r"},
		"another strategy":   {Strategy: "row", Schema: "t", Role: "r", Login: "l", Database: "d"},
		"no own login":       {Strategy: tenant.DatabaseStrategy, Schema: "t", Role: "r", Database: "d"},
		"no own database":    {Strategy: tenant.DatabaseStrategy, Schema: "t", Role: "r", Login: "l"},
		"database in quotes": {Strategy: tenant.DatabaseStrategy, Schema: "t", Role: "r", Login: "l", Database: `"d"`},
		"no schema":          {Strategy: tenant.SchemaStrategy, Role: "r"},
		"no role":            {Strategy: tenant.SchemaStrategy, Schema: "t"},
		"the absent role":    {Strategy: tenant.SchemaStrategy, Schema: "t", Role: "none"},
		"role with a quote":  {Strategy: tenant.SchemaStrategy, Schema: "t", Role: "r'"},
		"login in quotes":    {Strategy: tenant.SchemaStrategy, Schema: "t", Role: "r", Login: `"l"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := p.Validate(); err == nil {
				t.Errorf("%+v is accepted", p)
			}
		})
	}
}

func TestOwnDatabase(t *testing.T) {
	t.Parallel()
	for _, slug := range []tenant.Slug{"acme", "7", "pg-x", "a-b", "pg", tenant.Slug(strings.Repeat("9", tenant.MaxSlugLen))} {
		shared := tenant.NewPlacement(tenant.ID{1}, slug, tenant.DefaultCluster, "app")
		one, other := shared.OwnDatabase(slug, "two"), shared.OwnDatabase(slug, "two")
		if err := one.Validate(); err != nil {
			t.Error(err)
		}
		if one.Database == other.Database {
			t.Errorf("%s: two databases are called %s", slug, one.Database)
		}
		if !strings.Contains(one.Database, strings.ReplaceAll(string(slug[:1]), "-", "_")) {
			t.Errorf("%s: the database is called %s", slug, one.Database)
		}
		other.Database = one.Database
		want := shared
		want.Cluster, want.Strategy, want.Database, want.Login = "two", tenant.DatabaseStrategy, one.Database, "l"+shared.Role[1:]
		if one != other || one != want {
			t.Errorf("got %+v\nwant %+v", one, want)
		}
	}
}

func TestTheDefaultLoginHasNoName(t *testing.T) {
	t.Parallel()
	p := tenant.Placement{Strategy: tenant.SchemaStrategy, Schema: "t", Role: "r"}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	other := p
	if other.Login = "run_1"; other == p || other.Validate() != nil {
		t.Errorf("%+v is refused, or is the same placement as with the default login", other)
	}
}

// THREATS 28: an accepted name is one plain identifier: quoting changes nothing in it, and no list hides in it.
func FuzzValidate(f *testing.F) {
	for name := range nameTable {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		plain := name != "" && len(name) <= 63 && !strings.HasPrefix(name, "pg_") && (name[0] < '0' || name[0] > '9') &&
			strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
		got := validates(t, name)
		if got != plain {
			t.Errorf("%q: got %v, want %v", name, got, plain)
		}
		if got && (pgx.Identifier{name}).Sanitize() != `"`+name+`"` {
			t.Errorf("%q needs quoting", name)
		}
	})
}
