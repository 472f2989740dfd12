package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
)

//go:embed product/*.sql
var product embed.FS

const (
	productDir = "product"
	// kept is how many files a rollback leaves, and base is the version of the last of them.
	kept = 2
	base = "02"
)

// course is what a process does with the fleet.
type course string

const (
	up course = "up"
	// backLast rolls back as many files as it takes from the last one to the base. It counts from what it finds, so it must not be
	// said again to a fleet of which a part was rolled back.
	backLast course = "back-last"
	// backToBase may be said again.
	backToBase course = "back-to-base"
)

// migrator takes the fleet of a database along the job's course, over connections that the clock counts.
type migrator func(ctx context.Context, url string, j job, c *clock) error

// migrateFleet is what is put to the test.
func migrateFleet(ctx context.Context, url string, j job, c *clock) error {
	targets, err := fleet(url, c)
	if err != nil {
		return err
	}
	set, err := migrate.Load(product, productDir)
	if err != nil {
		return err
	}
	m := migrate.New(set, migrate.Config{Workers: j.workers})
	switch j.course {
	case up:
		_, err = m.Up(ctx, targets, migrate.Options{})
	case backLast:
		_, err = m.Rollback(ctx, targets, migrate.Back{Last: len(set.Files()) - kept}, migrate.Options{})
	case backToBase:
		_, err = m.Rollback(ctx, targets, migrate.Back{To: base}, migrate.Options{})
	default:
		err = fmt.Errorf("unknown course %q", j.course)
	}
	return err
}

// tenants is how many tenants the fleet has.
const tenants = 3

// fleet returns the tenants of a database.
func fleet(url string, c *clock) ([]migrate.Target, error) {
	var targets []migrate.Target
	for i := range tenants {
		t, err := target(url, fmt.Sprintf("kills_%d", i), c)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// target is one schema, over connections that the clock counts. All tenants share one role.
func target(url, schema string, c *clock) (migrate.Target, error) {
	conn, err := pgx.ParseConfig(url)
	if err != nil {
		return migrate.Target{}, err
	}
	conn.DialFunc = c.dial(conn.DialFunc)
	return migrate.Target{Schema: schema, Conn: conn, Role: "kills_of_" + conn.Database}, nil
}

// state is what must stand in a tenant.
type state struct {
	// ledger holds versions with their checksums, in order.
	ledger []string
	// runs are the marks that files have left, in order.
	runs []string
	// counter is one for each file that ran up, and a thousand for each that ran down.
	counter int
	// reference is a schema that came there without a kill.
	reference string
}

// mark finds the mark that a section of a file leaves.
var mark = regexp.MustCompile(`INTO runs \(what\) VALUES \('([^']+)'\)`)

// states returns what must stand in a tenant that has all files, and in one that was rolled back from there to the base.
func states() (whole, rolledBack state, err error) {
	whole.reference, rolledBack.reference = "kills_whole", "kills_base"
	entries, err := product.ReadDir(productDir)
	if err != nil {
		return whole, rolledBack, err
	}
	var undone []string
	for i, entry := range entries {
		content, err := product.ReadFile(productDir + "/" + entry.Name())
		if err != nil {
			return whole, rolledBack, err
		}
		sum := sha256.Sum256(content)
		version, _, _ := strings.Cut(entry.Name(), "_")
		whole.ledger = append(whole.ledger, version+" "+hex.EncodeToString(sum[:]))
		for _, found := range mark.FindAllStringSubmatch(string(content), -1) {
			switch {
			case strings.HasSuffix(found[1], "up"):
				whole.runs = append(whole.runs, found[1])
			case i >= kept:
				undone = append([]string{found[1]}, undone...)
			}
		}
	}
	whole.counter = len(whole.runs)
	rolledBack.ledger = whole.ledger[:kept]
	rolledBack.runs = append(append(rolledBack.runs, whole.runs...), undone...)
	rolledBack.counter = whole.counter + 1000*len(undone)
	return whole, rolledBack, nil
}

// baseFiles shows those files of the product that a rollback leaves.
type baseFiles struct{ embed.FS }

func (b baseFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := b.FS.ReadDir(name)
	return entries[:min(kept, len(entries))], err
}
