// Package config holds Leasehold's settings: each is a flag, or an environment variable of the same name, and is read and
// checked here once. The struct tags are kong's (github.com/alecthomas/kong); the commands embed what they need.
//
// It guarantees that a setting that is wrong is an *Error that names the setting as the operator knows it and says what to
// write instead, and that no error shows a password.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Error is a setting that is missing or wrong.
type Error struct {
	// Setting is the environment variable's name.
	Setting string
	// Err says what is wrong.
	Err error
	// Hint says what to do.
	Hint string
}

func (e *Error) Error() string { return e.Setting + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

var errMissing = errors.New("is not set")

// minSecretLen is the shortest secret key, in bytes.
const minSecretLen = 16

// Database says how to reach the control database.
type Database struct {
	DatabaseURL string `name:"database-url" env:"LEASEHOLD_DATABASE_URL" placeholder:"URL" help:"The administrator's login in the control database: postgres://user:password@host:port/database. It needs CREATEROLE, owns the database, and connects directly, not through a transaction pooler."`
}

// ConnConfig returns how the administrator connects.
func (d Database) ConnConfig() (*pgx.ConnConfig, error) {
	const setting = "LEASEHOLD_DATABASE_URL"
	if d.DatabaseURL == "" {
		return nil, &Error{setting, errMissing,
			"set it to the administrator's postgres:// URL; for the database of 'leasehold dev' run: . ./.leasehold/env"}
	}
	const hint = "write it as postgres://user:password@host:port/database, with %40 for @, and %2F for /, in the password"
	cc, err := pgx.ParseConfig(d.DatabaseURL)
	if err != nil {
		return nil, &Error{setting, withoutURL(err), hint}
	}
	// Then what pgx takes for the host or the database is part of a password, and messages name both. A socket may begin with @.
	if strings.LastIndexByte(cc.Host, '@') > 0 || strings.Contains(cc.Database, "@") {
		return nil, &Error{setting, errors.New("has an @ in the host or the database"), hint}
	}
	return cc, nil
}

// withoutURL returns what pgx says about a URL that it cannot read without the URL, in which it blots out the password only if
// it can tell what the password is.
func withoutURL(err error) error {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		return errors.New("cannot be read: " + text[i+len("`: "):])
	}
	return errors.New("cannot be read")
}

// Secret is the key that passwords are derived from, and that the registry's secrets are encrypted with.
type Secret struct {
	SecretKey     string `name:"secret-key" env:"LEASEHOLD_SECRET_KEY" placeholder:"KEY" help:"At least 16 random bytes, the same for every process: passwords that Leasehold makes are derived from it or encrypted with it. Prefer the variable or the file to the flag, which other users of the machine can see."`
	SecretKeyFile string `name:"secret-key-file" env:"LEASEHOLD_SECRET_KEY_FILE" placeholder:"FILE" help:"A file that holds the secret key."`

	OldSecretKey     string `name:"old-secret-key" env:"LEASEHOLD_OLD_SECRET_KEY" placeholder:"KEY" help:"The key before, while it is being changed: what was made with it can be used too."`
	OldSecretKeyFile string `name:"old-secret-key-file" env:"LEASEHOLD_OLD_SECRET_KEY_FILE" placeholder:"FILE" help:"A file that holds the key before."`
}

// Key returns the secret key.
func (s Secret) Key() ([]byte, error) {
	const setting = "LEASEHOLD_SECRET_KEY"
	key, err := readKey(setting, s.SecretKey, s.SecretKeyFile)
	if err == nil && key == nil {
		err = &Error{setting, errMissing, secretHint}
	}
	return key, err
}

// OptionalKey returns the secret key, or nil if none is set, for commands that need one only for some databases.
func (s Secret) OptionalKey() ([]byte, error) {
	return readKey("LEASEHOLD_SECRET_KEY", s.SecretKey, s.SecretKeyFile)
}

// OldKeys returns the keys that were the secret key before: none or one.
func (s Secret) OldKeys() ([][]byte, error) {
	key, err := readKey("LEASEHOLD_OLD_SECRET_KEY", s.OldSecretKey, s.OldSecretKeyFile)
	if key == nil || err != nil {
		return nil, err
	}
	return [][]byte{key}, nil
}

const secretHint = "set it to at least 16 random bytes, such as the output of: openssl rand -hex 32; for the database of 'leasehold dev' run: . ./.leasehold/env"

// readKey returns a key that is given itself, or else in a file; nil if neither is.
func readKey(setting, value, file string) ([]byte, error) {
	key := []byte(value)
	if value == "" && file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, &Error{setting + "_FILE", err, "name a file that this user can read"}
		}
		if key = bytes.TrimSpace(content); len(key) == 0 {
			return nil, &Error{setting + "_FILE", errors.New("is empty"), secretHint}
		}
	}
	switch {
	case len(key) == 0:
		return nil, nil
	case len(key) < minSecretLen:
		return nil, &Error{setting, fmt.Errorf("has %d bytes, fewer than %d", len(key), minSecretLen), secretHint}
	}
	return key, nil
}

// Listen says where the two listeners are.
type Listen struct {
	Listen      string `name:"listen" env:"LEASEHOLD_LISTEN" default:"127.0.0.1:8080" placeholder:"ADDR" help:"Where to serve, host:port (${default})."`
	AdminListen string `name:"admin-listen" env:"LEASEHOLD_ADMIN_LISTEN" default:"127.0.0.1:8081" placeholder:"ADDR" help:"Where to serve /healthz and /readyz, host:port (${default})."`
}

// Web says which hosts are served and how people reach them.
type Web struct {
	BaseDomain     []string `name:"base-domain" env:"LEASEHOLD_BASE_DOMAIN" default:"localhost" placeholder:"NAME" help:"The domain under which each company has its subdomain (${default}). Several are separated by commas; links use the first."`
	PublicURL      string   `name:"public-url" env:"LEASEHOLD_PUBLIC_URL" placeholder:"URL" help:"How people reach the base domain: scheme, and port if it is not the scheme's own. Made of the base domain and the listener's port if not set."`
	TrustedProxies []string `name:"trusted-proxies" env:"LEASEHOLD_TRUSTED_PROXIES" placeholder:"CIDR" help:"Networks of reverse proxies whose X-Forwarded-Host and Forwarded headers are believed, separated by commas."`
}

// Proxies returns the trusted networks.
func (w Web) Proxies() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, s := range w.TrustedProxies {
		s = strings.TrimSpace(s)
		prefix, err := netip.ParsePrefix(s)
		if addr, addrErr := netip.ParseAddr(s); addrErr == nil {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, &Error{"LEASEHOLD_TRUSTED_PROXIES", fmt.Errorf("%q is no network", s), "write networks such as 10.0.0.0/8, separated by commas"}
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// URLs returns functions that give the public URL of the apex and of a tenant, without a path. listener is the address that
// is served.
func (w Web) URLs(listener net.Addr) (apex string, of func(tenant.Slug) string, err error) {
	if len(w.BaseDomain) == 0 || w.BaseDomain[0] == "" {
		return "", nil, &Error{"LEASEHOLD_BASE_DOMAIN", errMissing, "name the domain, such as example.com"}
	}
	base := url.URL{Scheme: "http", Host: w.BaseDomain[0]}
	if w.PublicURL != "" {
		given, err := url.Parse(w.PublicURL)
		if err != nil || given.Host == "" || (given.Scheme != "http" && given.Scheme != "https") || strings.Trim(given.Path, "/") != "" {
			return "", nil, &Error{"LEASEHOLD_PUBLIC_URL", fmt.Errorf("%q is no URL of a host", w.PublicURL), "write it as https://example.com or https://example.com:8443"}
		}
		base = url.URL{Scheme: given.Scheme, Host: given.Host}
	} else if tcp, ok := listener.(*net.TCPAddr); ok && tcp.Port != 80 {
		base.Host = fmt.Sprintf("%s:%d", base.Host, tcp.Port)
	}
	return base.String(), func(slug tenant.Slug) string {
		u := base
		u.Host = string(slug) + "." + base.Host
		return u.String()
	}, nil
}

// Log says what is logged.
type Log struct {
	LogLevel slog.Level `name:"log-level" env:"LEASEHOLD_LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"The least level that is logged to standard error: debug, info, warn, error (${default})."`
}
