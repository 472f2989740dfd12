package config_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leasehold-go/leasehold/internal/config"
)

func TestAWrongSettingIsNamedAndNoPasswordShown(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for name, tc := range map[string]struct {
		setting string
		read    func() error
	}{
		"no URL": {"LEASEHOLD_DATABASE_URL", func() error {
			_, err := config.Database{}.ConnConfig()
			return err
		}},
		"bad URL": {"LEASEHOLD_DATABASE_URL", func() error {
			_, err := config.Database{DatabaseURL: "postgres://u:canary@host:port/db"}.ConnConfig()
			return err
		}},
		"no key": {"LEASEHOLD_SECRET_KEY", func() error {
			_, err := config.Secret{}.Key()
			return err
		}},
		"short key": {"LEASEHOLD_SECRET_KEY", func() error {
			_, err := config.Secret{SecretKey: "canary"}.Key()
			return err
		}},
		"no key file": {"LEASEHOLD_SECRET_KEY_FILE", func() error {
			_, err := config.Secret{SecretKeyFile: missing}.Key()
			return err
		}},
		"bad proxy": {"LEASEHOLD_TRUSTED_PROXIES", func() error {
			_, err := config.Web{TrustedProxies: []string{"10.0.0.0/8", "everyone"}}.Proxies()
			return err
		}},
		"bad public URL": {"LEASEHOLD_PUBLIC_URL", func() error {
			_, _, err := config.Web{BaseDomain: []string{"example.com"}, PublicURL: "example.com"}.URLs(&net.TCPAddr{})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tc.read()
			var cfgErr *config.Error
			if !errors.As(err, &cfgErr) || cfgErr.Setting != tc.setting || cfgErr.Hint == "" {
				t.Fatalf("got %v, want an error of %s with a hint", err, tc.setting)
			}
			if strings.Contains(err.Error()+cfgErr.Hint, "canary") {
				t.Errorf("%v shows a secret", err)
			}
		})
	}
}

// Whatever is wrong with a URL, what may be its password is not shown.
func TestNoPasswordOfAWrongURL(t *testing.T) {
	t.Parallel()
	for _, databaseURL := range []string{
		"postgres://u:canary@host:port/db",
		"postgres://u:x@canary@host:port/db",
		"postgres://u:x@canary@host:5432/db",
		"postgres://u:x/canary@host/db",
		"postgres://u:12/canary@host/db",
		"postgres://u:canary%zz@host/db",
		"postgres://u:x canary@host/db",
		"postgres://host:1/db?password=canary&sslmode=wrong",
		"postgres://u:canary@host/db?connect_timeout=never",
		"host=h password = canary sslmode=wrong",
		"host=h password='x canary' sslmode=wrong",
		"host=h password=x canary",
		"mysql://u:canary@host/db",
		"u:canary@host/db",
		"u:x`: canary@host/db",
		`"postgres://u:canary@host/db"`,
		"canary",
	} {
		_, err := config.Database{DatabaseURL: databaseURL}.ConnConfig()
		var cfgErr *config.Error
		if !errors.As(err, &cfgErr) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", databaseURL, err)
		}
	}
}

func TestSecretFromFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := config.Secret{SecretKeyFile: file}.Key()
	if err != nil || string(key) != "0123456789abcdef" {
		t.Errorf("%q, %v", key, err)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name         string
		web          config.Web
		port         int
		apex, tenant string
	}{
		{"development", config.Web{BaseDomain: []string{"localhost"}}, 8080, "http://localhost:8080", "http://acme.localhost:8080"},
		{"port 80", config.Web{BaseDomain: []string{"example.com", "example.org"}}, 80, "http://example.com", "http://acme.example.com"},
		{"behind a proxy", config.Web{BaseDomain: []string{"example.com"}, PublicURL: "https://example.com/"}, 8080, "https://example.com", "https://acme.example.com"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			apex, of, err := tc.web.URLs(&net.TCPAddr{Port: tc.port})
			if err != nil || apex != tc.apex || of("acme") != tc.tenant {
				t.Errorf("%s, %s, %v; want %s, %s", apex, of("acme"), err, tc.apex, tc.tenant)
			}
		})
	}
}
