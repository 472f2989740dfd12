package directory

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// minSecretKeyLen is the shortest secret key, in bytes.
const minSecretKeyLen = 16

// Config says how to reach the registry and how to use it.
type Config struct {
	// ConnConfig is the administrator's login in the control database: it may create roles (CREATEROLE) and schemas, and should
	// own the database. It is copied. Required.
	ConnConfig *pgx.ConnConfig
	// SecretKey is what the passwords of runtime logins are derived from, and what the URLs of clusters and the passwords of tenants
	// are encrypted with: at least 16 random bytes, the same in every process. Required by Directory.RuntimeConn, LoginConn, Create,
	// FillSpares, KeepSpares, RotatePassword and Reseal, and by whatever has to do with a cluster other than the default one.
	SecretKey []byte
	// OldSecretKeys are keys that were SecretKey before, or will be. What was made with them can be used too, so that the key can be
	// changed while processes run; see Directory.Reseal. While there are any, LoginConn tries which key's password works, each time.
	// Defaults to none.
	OldSecretKeys [][]byte
	// Migrator migrates the schema of each new tenant. Required by Directory.Create, FillSpares, KeepSpares and Reference.
	Migrator *migrate.Migrator
	// MaxConns is the size of the pool for reading the registry; Create may use half of it to take spares. One connection more
	// listens for changes; each tenant that is being built and the filling of spares have two of their own. Defaults to 4.
	MaxConns int
	// MaxCreates is how many calls of Create build a tenant at once; others wait. Defaults to 4.
	MaxCreates int
	// Spares is how many spares KeepSpares and FillSpares keep, for Create to take: schemas with their roles that were made and
	// migrated ahead of time, on the default cluster. Each costs the disk what an empty tenant does. Spares are made good in batches, since each batch, like
	// each tenant that is built, makes the next SET ROLE of every session slow (see TenantsPerLogin): give it at least the number
	// of sign-ups in a busy minute. Processes may have different numbers; the largest counts. Defaults to none.
	Spares int
	// TenantsPerLogin is how many living tenants and spares a runtime login gets at most; the next goes to another login. Whenever
	// the members of any role of the server change, as each Create does, the next SET ROLE of every session walks all roles that
	// its login is a member of: measured on PostgreSQL 15, that takes 4 ms with 1,250 of them, 11 ms with 2,500 and 125 ms with
	// 10,000. Fewer tenants for each login mean shorter stalls and connections that fewer tenants can share. A smaller value than
	// before moves nobody. Defaults to 2,000.
	TenantsPerLogin int
	// CacheSize is how many tenants Resolve keeps at most. Defaults to 100,000.
	CacheSize int
	// CacheTTL is how long Resolve trusts what it read, should no notification of a change arrive. Defaults to 30 seconds.
	CacheTTL time.Duration
	// NegativeCacheSize is how many unknown slugs Resolve remembers at most. Defaults to 10,000.
	NegativeCacheSize int
	// NegativeCacheTTL is how long an unknown slug is remembered. Defaults to 5 seconds.
	NegativeCacheTTL time.Duration
	// Grace is how long after its last good read a tenant is served when the registry cannot be reached. It is no shorter
	// than CacheTTL. Defaults to 15 minutes.
	Grace time.Duration
	// ReadTimeout bounds one read of the registry by Resolve, the wait for a connection included. Defaults to 3 seconds.
	ReadTimeout time.Duration
	// BaseDomains are the domains under which tenants have their subdomains, as in tenanthttp.Config. AddDomain refuses them, and
	// what lies under them, as a tenant's own domain. Defaults to none.
	BaseDomains []string
	// TXTResolver is asked for the TXT records that verify domains. Defaults to net.DefaultResolver.
	TXTResolver TXTResolver
	// Logger gets what an operator should know. Defaults to discarding it.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxConns, 4)
	setDefault(&c.MaxCreates, 4)
	setDefault(&c.TenantsPerLogin, 2_000)
	setDefault(&c.CacheSize, 100_000)
	setDefault(&c.CacheTTL, 30*time.Second)
	setDefault(&c.NegativeCacheSize, 10_000)
	setDefault(&c.NegativeCacheTTL, 5*time.Second)
	setDefault(&c.Grace, 15*time.Minute)
	setDefault(&c.ReadTimeout, 3*time.Second)
	c.Grace = max(c.Grace, c.CacheTTL)
	if c.TXTResolver == nil {
		c.TXTResolver = net.DefaultResolver
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate checks what both Migrate and Open need.
func (c Config) validate() error {
	if c.ConnConfig == nil {
		return errors.New("directory: ConnConfig is missing; give it the administrator's login, made by pgx.ParseConfig")
	}
	for _, key := range c.OldSecretKeys {
		if len(key) < minSecretKeyLen {
			return fmt.Errorf("directory: one of OldSecretKeys has %d bytes, fewer than %d", len(key), minSecretKeyLen)
		}
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"MaxConns", int64(c.MaxConns)}, {"MaxCreates", int64(c.MaxCreates)}, {"Spares", int64(c.Spares)},
		{"TenantsPerLogin", int64(c.TenantsPerLogin)}, {"CacheSize", int64(c.CacheSize)},
		{"CacheTTL", int64(c.CacheTTL)}, {"NegativeCacheSize", int64(c.NegativeCacheSize)},
		{"NegativeCacheTTL", int64(c.NegativeCacheTTL)}, {"Grace", int64(c.Grace)}, {"ReadTimeout", int64(c.ReadTimeout)},
	} {
		if n.value < 0 {
			return fmt.Errorf("directory: %s is negative", n.name)
		}
	}
	return nil
}

func (c Config) validateSecretKey() error {
	if len(c.SecretKey) < minSecretKeyLen {
		return fmt.Errorf("directory: SecretKey has %d bytes; give it at least %d random ones", len(c.SecretKey), minSecretKeyLen)
	}
	return nil
}

// secretKeys are all keys that there are, the one that counts first.
func (c Config) secretKeys() [][]byte {
	var keys [][]byte
	for _, key := range slices.Concat([][]byte{c.SecretKey}, c.OldSecretKeys) {
		if len(key) > 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// schemaName is the registry's schema.
const schemaName = "leasehold"

// registryConn is the administrator's login with the registry on its path. A statement must see what was committed before it
// began, since what it looks at is often what a lock was waited for.
func (c Config) registryConn() *pgx.ConnConfig {
	cc := c.ConnConfig.Copy()
	cc.RuntimeParams["search_path"] = schemaName
	cc.RuntimeParams["default_transaction_isolation"] = "read committed"
	return cc
}
