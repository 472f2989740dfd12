package pgserver

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// What every server of ours has.
const (
	// Superuser is the name of the superuser.
	Superuser = "postgres"
	// Administrator is the login that owns the database Database. It may create roles and databases; it is no superuser.
	Administrator = "leasehold"
	// Database is the name of the database that Administrator owns.
	Database = "leasehold"
)

// MinMajor is the oldest major version of PostgreSQL that is run.
const MinMajor = 15

// Config says how to run a server. The zero value is not complete: set DataDir or Ephemeral.
type Config struct {
	// DataDir is the folder to keep the server's files in, in a subfolder named postgres. It is created if it is missing.
	// Required, unless Ephemeral.
	DataDir string
	// Ephemeral makes a server that is fast and forgets: nothing is flushed to disk, and the folder, which is a new one in
	// os.TempDir, is removed by Stop. DataDir must be empty. Folders left by killed processes are removed at the next
	// ephemeral start. Defaults to false.
	Ephemeral bool
	// Port is the TCP port on 127.0.0.1. Defaults to the port of the folder's last start if that is free, else a free one.
	Port int
	// BinDir is the folder with PostgreSQL's programs (initdb, postgres). Defaults to the newest of a supported version
	// found on the machine, or of the version that made the folder; if there is none, they are fetched.
	BinDir string
	// Settings are server settings (postgresql.conf) that win over ours. Where and how the server listens cannot be set.
	// Defaults to none.
	Settings map[string]string
	// StartTimeout bounds Start, without the time to fetch binaries. Defaults to one minute.
	StartTimeout time.Duration
	// Logger gets the events of this package, never the server's own log. Defaults to none.
	Logger *slog.Logger
}

// settingName is what a name in Settings must look like. The second form is an extension's setting.
var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)

// reserved are the settings that the guarantees rest on.
var reserved = map[string]bool{
	"listen_addresses": true, "port": true, "unix_socket_directories": true, "data_directory": true, "config_file": true,
	"hba_file": true, "ident_file": true, "external_pid_file": true, "logging_collector": true,
}

func (c Config) withDefaults() Config {
	if c.StartTimeout == 0 {
		c.StartTimeout = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Ephemeral && c.DataDir != "":
		return errors.New("pgserver: an ephemeral server chooses its own folder; leave DataDir empty")
	case !c.Ephemeral && c.DataDir == "":
		return errors.New("pgserver: DataDir is empty")
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("pgserver: port %d is not between 0 and 65535", c.Port)
	case c.BinDir != "" && !filepath.IsAbs(c.BinDir):
		return fmt.Errorf("pgserver: BinDir %q is not an absolute path", c.BinDir)
	case c.StartTimeout < 0:
		return errors.New("pgserver: StartTimeout is negative")
	}
	for name := range c.Settings {
		if !settingName.MatchString(name) {
			return fmt.Errorf("pgserver: %q is not the name of a setting", name)
		}
		if reserved[strings.ToLower(name)] {
			return fmt.Errorf("pgserver: the setting %s cannot be changed", name)
		}
	}
	return nil
}

// stopSignal asks the server to end: in order, or at once if there is nothing worth the time that order takes.
func (c Config) stopSignal() syscall.Signal {
	if c.Ephemeral {
		return syscall.SIGQUIT
	}
	return syscall.SIGINT
}

// durable says whether the cluster is to survive a power cut.
func (c Config) durable() bool { return !c.Ephemeral && c.Settings["fsync"] != "off" }

// settings are the server's settings, without those that say where it listens.
func (c Config) settings() map[string]string {
	merged := map[string]string{
		"log_line_prefix": "%m [%p] %q%u@%d ",
		"log_destination": "stderr",
	}
	if c.Ephemeral {
		for name, value := range map[string]string{
			"fsync":                     "off",
			"synchronous_commit":        "off",
			"full_page_writes":          "off",
			"wal_level":                 "minimal",
			"max_wal_senders":           "0",
			"shared_buffers":            "32MB",
			"max_connections":           "200",
			"max_locks_per_transaction": "256",
			"jit":                       "off",
		} {
			merged[name] = value
		}
	}
	for name, value := range c.Settings {
		merged[name] = value
	}
	return merged
}
