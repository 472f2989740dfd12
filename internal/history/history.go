// Package history is the past of a made-up product, a wholesaler's shop, in 200 dbmate files written over seven years. Tests and
// benchmarks run it, because short and clean histories hide what long ones show.
//
// Its files do what such files do: tables, and partitioned tables that get their partitions one by one; columns that are
// replaced in steps (add and keep in step, fill, drop the old one); constraints that are added NOT VALID and validated later;
// enums that gain values, and indexes built and dropped concurrently, each alone in a file with transaction:false; functions
// and views that are replaced; triggers, row security, generated columns, materialized views, domains, composite types,
// rules, statistics; data that is moved and seeded.
//
// The files are the same at each call. Each has a down section that takes back what its up section did to the schema, but for
// the enums' values, which cannot be taken back.
//
//	set, err := migrate.Load(history.Files(), history.Dir)
package history

import (
	"fmt"
	"io/fs"
	"strings"
	"testing/fstest"
	"time"
)

// Dir is the folder of the files in what Files and First return.
const Dir = "tenant"

// Files returns all 200 files.
func Files() fs.FS {
	files := write()
	return folder(files)
}

// First returns the oldest n files, or all if there are fewer.
func First(n int) fs.FS {
	files := write()
	return folder(files[:min(n, len(files))])
}

func folder(files []file) fs.FS {
	fsys := fstest.MapFS{}
	for _, f := range files {
		fsys[Dir+"/"+f.name] = &fstest.MapFile{Data: []byte(f.text), Mode: 0o444}
	}
	return fsys
}

func write() []file {
	w := &writer{now: time.Date(2019, 1, 14, 9, 0, 0, 0, time.UTC)}
	w.year2019()
	w.year2020()
	w.year2021()
	w.year2022()
	w.year2023()
	w.year2024()
	w.year2025()
	return w.files
}

type file struct{ name, text string }

// writer writes one file after the other, as if time passed.
type writer struct {
	now   time.Time
	files []file
}

// year says that the files from now on are of a later year.
func (w *writer) year(year int) {
	w.now = time.Date(year, 1, 10, 9, 0, 0, 0, time.UTC)
}

// add writes a file. A down section "" means that there is no way back.
func (w *writer) add(name, up, down string) { w.put(name, up, "", down, "") }

// alone writes a file that runs without a transaction, in both directions.
func (w *writer) alone(name, up, down string) {
	w.put(name, up, withoutTransaction, down, withoutTransaction)
}

const withoutTransaction = " transaction:false"

func (w *writer) put(name, up, upOption, down, downOption string) {
	text := "-- migrate:up" + upOption + "\n" + strings.TrimSpace(up) + "\n\n-- migrate:down"
	if down != "" {
		text += downOption + "\n" + strings.TrimSpace(down)
	}
	w.files = append(w.files, file{w.now.Format("20060102150405") + "_" + name + ".sql", text + "\n"})
	// About thirty files a year, at hours that people work.
	w.now = w.now.AddDate(0, 0, 8+len(w.files)%5).Add(time.Duration(7*len(name)%120-60) * time.Minute)
}

// index builds an index while the table is in use. columns are as in CREATE INDEX, perhaps with a condition behind the
// parenthesis.
func (w *writer) index(name, table, columns string) { w.buildIndex("INDEX", name, table, columns) }

func (w *writer) uniqueIndex(name, table, columns string) {
	w.buildIndex("UNIQUE INDEX", name, table, columns)
}

func (w *writer) buildIndex(kind, name, table, columns string) {
	w.alone("index_"+name,
		fmt.Sprintf("CREATE %s CONCURRENTLY IF NOT EXISTS %s ON %s %s;", kind, name, table, columns),
		fmt.Sprintf("DROP INDEX CONCURRENTLY IF EXISTS %s;", name))
}

// dropIndex takes back what index built.
func (w *writer) dropIndex(name, table, columns string) {
	w.alone("drop_"+name,
		fmt.Sprintf("DROP INDEX CONCURRENTLY IF EXISTS %s;", name),
		fmt.Sprintf("CREATE INDEX CONCURRENTLY IF NOT EXISTS %s ON %s %s;", name, table, columns))
}

// enumValue adds a value to an enum, for which there is no way back.
func (w *writer) enumValue(enum, value, after string) {
	w.alone("add_"+value+"_to_"+enum, fmt.Sprintf("ALTER TYPE %s ADD VALUE IF NOT EXISTS '%s' AFTER '%s';", enum, value, after), "")
}

// partition adds the partition of a table for the time from one day to another.
func (w *writer) partition(table, name, from, to string) {
	w.add("create_"+name,
		fmt.Sprintf("CREATE TABLE %s PARTITION OF %s\nFOR VALUES FROM ('%s 00:00:00+00') TO ('%s 00:00:00+00');", name, table, from, to),
		// A foreign key that points at the table holds on to its partitions.
		fmt.Sprintf("ALTER TABLE %[1]s DETACH PARTITION %[2]s;\nDROP TABLE %[2]s;", table, name))
}

// check adds a constraint in two steps: it holds for new rows at once, and for the old ones after a second look that locks
// nobody out.
func (w *writer) check(table, name, expression string) {
	w.constraint(table, name, "CHECK ("+expression+")")
}

func (w *writer) foreignKey(table, column, references string) {
	w.constraint(table, table+"_"+column+"_fkey", fmt.Sprintf("FOREIGN KEY (%s) REFERENCES %s", column, references))
}

func (w *writer) constraint(table, name, definition string) {
	w.add("add_"+name,
		fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s\n%s NOT VALID;", table, name, definition),
		fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s;", table, name))
	w.add("validate_"+name,
		fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s;", table, name),
		fmt.Sprintf("ALTER TABLE %[1]s DROP CONSTRAINT %[2]s;\nALTER TABLE %[1]s ADD CONSTRAINT %[2]s\n%[3]s NOT VALID;", table, name, definition))
}

// require makes a column NOT NULL in three steps: it is filled, a constraint is added that need not look at the old rows, and the
// constraint is validated and spares SET NOT NULL its own look at them.
func (w *writer) require(table, column, fill string) {
	constraint := table + "_" + column + "_set"
	w.add("fill_"+table+"_"+column,
		fmt.Sprintf("UPDATE %[1]s SET %[2]s = %[3]s WHERE %[2]s IS NULL;", table, column, fill),
		"SELECT 1; -- what was filled in does no harm")
	w.add("add_"+constraint,
		fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s IS NOT NULL) NOT VALID;", table, constraint, column),
		fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s;", table, constraint))
	w.add("require_"+table+"_"+column,
		fmt.Sprintf("ALTER TABLE %[1]s VALIDATE CONSTRAINT %[2]s;\nALTER TABLE %[1]s ALTER %[3]s SET NOT NULL;\nALTER TABLE %[1]s DROP CONSTRAINT %[2]s;",
			table, constraint, column),
		fmt.Sprintf("ALTER TABLE %[1]s ALTER %[3]s DROP NOT NULL;\nALTER TABLE %[1]s ADD CONSTRAINT %[2]s CHECK (%[3]s IS NOT NULL) NOT VALID;",
			table, constraint, column))
}

// replaced is a column that gives way to another.
type replaced struct {
	table    string
	old, now string // "name type"
	// forward and back make the one's value of the other's, which they call by its name.
	forward, back string
}

// replace puts one column in the place of another in three steps: expand, fill, contract. Between them both are there and a
// trigger keeps them in step, so that programs of both ages can work.
func (w *writer) replace(r replaced) {
	oldName, _, _ := strings.Cut(r.old, " ")
	newName, _, _ := strings.Cut(r.now, " ")
	p := strings.NewReplacer("{t}", r.table, "{o}", oldName, "{n}", newName, "{old}", r.old, "{new}", r.now,
		"{fwd}", r.forward, "{back}", r.back,
		"{NEW.fwd}", strings.ReplaceAll(r.forward, oldName, "NEW."+oldName), "{NEW.back}", strings.ReplaceAll(r.back, newName, "NEW."+newName))
	const keep = `CREATE FUNCTION {t}_keep_{n}() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.{n} IS NULL OR TG_OP = 'UPDATE' AND NEW.{o} IS DISTINCT FROM OLD.{o} THEN
        NEW.{n} := {NEW.fwd};
    ELSE
        NEW.{o} := {NEW.back};
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER {t}_keep_{n} BEFORE INSERT OR UPDATE ON {t}
FOR EACH ROW EXECUTE FUNCTION {t}_keep_{n}();`
	const forget = "DROP TRIGGER {t}_keep_{n} ON {t};\nDROP FUNCTION {t}_keep_{n}();\n"
	w.add(p.Replace("expand_{t}_{n}"), p.Replace("ALTER TABLE {t} ADD {new};\n\n"+keep), p.Replace(forget+"ALTER TABLE {t} DROP {n};"))
	w.add(p.Replace("fill_{t}_{n}"), p.Replace("UPDATE {t} SET {n} = {fwd} WHERE {n} IS NULL;"), "SELECT 1; -- the column goes with the file before")
	w.add(p.Replace("contract_{t}_{o}"),
		p.Replace(forget+"ALTER TABLE {t} ALTER {n} SET NOT NULL, DROP {o};"),
		p.Replace("ALTER TABLE {t} ALTER {n} DROP NOT NULL, ADD {old};\nUPDATE {t} SET {o} = {back};\nALTER TABLE {t} ALTER {o} SET NOT NULL;\n\n"+keep))
}
