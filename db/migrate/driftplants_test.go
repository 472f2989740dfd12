package migrate_test

import "slices"

// nasty is a product that has one of everything.
func nasty() map[string]string {
	return map[string]string{
		"20260101000000_tables.sql": up(`
CREATE TYPE status AS ENUM ('draft', 'issued', 'paid');
CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
CREATE DOMAIN email AS text COLLATE "C" DEFAULT 'nobody@example.com' CONSTRAINT email_check CHECK (VALUE ~ '@');
CREATE TYPE address AS (street text, city text, state status);
CREATE TYPE floats AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE SEQUENCE numbers START 1000 INCREMENT 2;
CREATE TABLE customers (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL CONSTRAINT customers_name_check CHECK (btrim(name) <> ''),
	mail email,
	home address,
	kind status NOT NULL DEFAULT 'draft',
	number integer DEFAULT nextval('numbers'),
	old_number serial,
	lower_name text COLLATE "C" GENERATED ALWAYS AS (lower(name)) STORED,
	period int4range,
	CONSTRAINT customers_period_excl EXCLUDE USING gist (period WITH &&),
	CONSTRAINT customers_number_key UNIQUE (number)
);
CREATE INDEX customers_by_name ON customers (lower(name), id) WHERE kind <> 'paid';
CREATE TABLE invoices (
	id bigint PRIMARY KEY,
	customer_id bigint CONSTRAINT invoices_customer_fkey REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED,
	state status, amount numeric(12, 2)
) WITH (fillfactor = 70);
CREATE TABLE notes (LIKE invoices INCLUDING ALL) INHERITS (customers);
CREATE UNLOGGED TABLE scratch (id int, label text);
CREATE TABLE events (id bigint, at date, customer_id bigint REFERENCES customers, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE INDEX events_by_customer ON events (customer_id);
CREATE STATISTICS invoices_statistics (ndistinct) ON customer_id, state FROM invoices;`),
		"20260102000000_code.sql": up(`
CREATE FUNCTION pick(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION pick(status) RETURNS status LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION open_invoices(of_customer bigint, OUT n bigint) LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM invoices i WHERE i.customer_id = of_customer; END;
CREATE FUNCTION listing(wanted status DEFAULT 'draft') RETURNS TABLE (id bigint, home address) LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN QUERY SELECT c.id, c.home FROM customers c WHERE c.kind = wanted;
END
$$;
CREATE PROCEDURE tidy() LANGUAGE plpgsql AS $$ BEGIN DELETE FROM scratch; END $$;
CREATE FUNCTION secret() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS 'SELECT count(*) FROM customers';
CREATE AGGREGATE total(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0');
CREATE FUNCTION alike(status, status) RETURNS boolean LANGUAGE sql AS 'SELECT $1 = $2';
CREATE OPERATOR === (LEFTARG = status, RIGHTARG = status, FUNCTION = alike);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER customers_touch BEFORE UPDATE ON customers FOR EACH ROW WHEN (OLD.kind <> NEW.kind) EXECUTE FUNCTION touch();
CREATE TRIGGER events_touch BEFORE UPDATE ON events FOR EACH ROW EXECUTE FUNCTION touch();
CREATE VIEW totals WITH (security_barrier) AS SELECT c.id, c.name, (SELECT sum(i.amount) FROM invoices i WHERE i.customer_id = c.id) AS total FROM customers c;
CREATE VIEW rich AS SELECT customers.id, totals.total FROM totals JOIN customers USING (id) WHERE totals.total > 1000;
CREATE MATERIALIZED VIEW summary AS SELECT c.kind, count(*) AS n FROM customers c GROUP BY c.kind;
CREATE UNIQUE INDEX summary_key ON summary (kind);
CREATE RULE keep AS ON DELETE TO invoices WHERE OLD.state = 'paid' DO INSTEAD NOTHING;
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON invoices FOR SELECT TO PUBLIC USING (state <> 'draft' OR EXISTS (SELECT FROM customers c WHERE c.id = customer_id));
GRANT SELECT ON rich TO PUBLIC;
GRANT UPDATE (name) ON customers TO PUBLIC;
REVOKE EXECUTE ON PROCEDURE tidy() FROM PUBLIC;`),
	}
}

// plant is a fault, and what is found of it.
type plant struct {
	name, sql string
	want      []string
}

func driftPlants() []plant {
	return slices.Concat(tablePlants(), codePlants(), rightsPlants())
}

func tablePlants() []plant {
	return []plant{
		{"added table", `CREATE TABLE extra (id int)`, []string{"table extra"}},
		{"added table with all that goes with it", `CREATE TABLE "Extra. to ""me"" "
				(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number serial, note text CHECK (note <> ' ON scratch USING '));
			CREATE INDEX "by, on" ON "Extra. to ""me"" " (number); CREATE UNIQUE INDEX ON "Extra. to ""me"" " (note);
			CREATE STATISTICS s ON id, number FROM "Extra. to ""me"" "; GRANT SELECT (id) ON "Extra. to ""me"" " TO {bob};
			ALTER TABLE "Extra. to ""me"" " ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON "Extra. to ""me"" ";
			CREATE RULE r AS ON DELETE TO "Extra. to ""me"" " DO INSTEAD NOTHING;
			CREATE TRIGGER t AFTER INSERT ON "Extra. to ""me"" " FOR EACH ROW EXECUTE FUNCTION touch()`, []string{`table "Extra. to ""me"" "`}},
		{"missing table", `DROP TABLE scratch`, []string{"table scratch"}},
		{"missing table with all that goes with it", `DROP TABLE events CASCADE`, []string{"table events", "table events_2026", "table events_rest"}},
		{"one table for another", `ALTER TABLE invoices RENAME TO bills`, []string{
			"function open_invoices(bigint)", "statistics invoices_statistics", "table bills", "table invoices", "view totals"}},
		{"added foreign table", `RESET ROLE; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE f (id int) SERVER s`, []string{"table f"}},
		{"missing column with a sequence", `ALTER TABLE customers DROP old_number`, []string{"column customers.old_number", "column notes.old_number"}},
		{"added views", `CREATE VIEW v AS SELECT 1 AS n; ALTER VIEW v ALTER n SET DEFAULT 2; CREATE MATERIALIZED VIEW m AS SELECT 1 AS n; CREATE UNIQUE INDEX ON m (n)`,
			[]string{"materialized view m", "view v"}},
		{"missing domain", `ALTER TABLE customers ALTER mail TYPE text; DROP DOMAIN email`, []string{"column customers.mail", "column notes.mail", "type email"}},
		{"column type", `ALTER TABLE scratch ALTER id TYPE bigint`, []string{"column scratch.id"}},
		{"column collation", `ALTER TABLE scratch ALTER label TYPE text COLLATE "C"`, []string{"column scratch.label"}},
		{"column default", `ALTER TABLE customers ALTER kind SET DEFAULT 'issued'`, []string{"column customers.kind", "column notes.kind"}},
		{"default of the partitions alone", `ALTER TABLE events_2026 ALTER at SET DEFAULT now()`, []string{"column events_2026.at"}},
		{"default of a view", `ALTER VIEW rich ALTER id SET DEFAULT 1`, []string{"column rich.id"}},
		{"nullable", `ALTER TABLE customers ALTER name DROP NOT NULL`, []string{"column customers.name", "column notes.name"}},
		{"missing column", `ALTER TABLE scratch DROP label`, []string{"column scratch.label"}},
		{"extra column", `ALTER TABLE scratch ADD more int`, []string{"column scratch.more"}},
		{"column order", `ALTER TABLE scratch ADD id2 int; ALTER TABLE scratch DROP id; ALTER TABLE scratch RENAME id2 TO id`, nil},
		{"identity", `ALTER TABLE customers ALTER id SET GENERATED BY DEFAULT`, []string{"column customers.id"}},
		{"sequence of an identity", `ALTER TABLE customers ALTER id SET INCREMENT 5`, []string{"sequence customers.id (identity)"}},
		{"name of an identity's sequence", `ALTER SEQUENCE customers_id_seq RENAME TO other`, nil},
		{"position of sequences", `SELECT nextval('numbers'), setval('customers_id_seq', 77)`, nil},
		{"generated column", `ALTER TABLE customers ALTER lower_name DROP EXPRESSION`, []string{"column customers.lower_name", "column notes.lower_name"}},
		{"sequence", `ALTER SEQUENCE numbers CYCLE`, []string{"sequence numbers"}},
		{"owned sequence", `ALTER SEQUENCE customers_old_number_seq OWNED BY NONE`, []string{"sequence customers_old_number_seq"}},
		{"unlogged", `ALTER TABLE scratch SET LOGGED`, []string{"table scratch"}},
		{"options of a table", `ALTER TABLE invoices RESET (fillfactor)`, []string{"table invoices"}},
		{"replica identity", `ALTER TABLE invoices REPLICA IDENTITY FULL`, []string{"table invoices"}},
		{"inheritance", `ALTER TABLE notes NO INHERIT customers`, []string{"table notes"}},
		{"bounds of a partition", `ALTER TABLE events DETACH PARTITION events_2026; ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-02-01') TO ('2027-01-01')`,
			[]string{"table events_2026"}},
		{"dropped index", `DROP INDEX customers_by_name`, []string{"index customers_by_name"}},
		{"other index", `DROP INDEX customers_by_name; CREATE INDEX customers_by_name ON customers (lower(name), id)`, []string{"index customers_by_name"}},
		{"invalid index", `RESET ROLE; UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'customers_by_name'::regclass`, []string{"index customers_by_name"}},
		{"invalid index of a constraint", `RESET ROLE; UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'customers_number_key'::regclass`, []string{"index customers_number_key"}},
		{"index of the partitions", `CREATE INDEX more ON events (at)`, []string{"index more"}},
		{"clustered index", `ALTER TABLE customers CLUSTER ON customers_period_excl`, []string{"index customers_period_excl"}},
		{"missing constraint", `ALTER TABLE invoices DROP CONSTRAINT invoices_customer_fkey`, []string{"constraint invoices.invoices_customer_fkey"}},
		{"missing unique constraint", `ALTER TABLE customers DROP CONSTRAINT customers_number_key`, []string{"constraint customers.customers_number_key"}},
		{"missing exclusion constraint", `ALTER TABLE customers DROP CONSTRAINT customers_period_excl`, []string{"constraint customers.customers_period_excl"}},
		{"constraint that is not validated", `ALTER TABLE invoices DROP CONSTRAINT invoices_customer_fkey; ALTER TABLE invoices ADD CONSTRAINT invoices_customer_fkey
			FOREIGN KEY (customer_id) REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED NOT VALID`, []string{"constraint invoices.invoices_customer_fkey"}},
		{"constraint that is not deferred", `ALTER TABLE invoices ALTER CONSTRAINT invoices_customer_fkey NOT DEFERRABLE`, []string{"constraint invoices.invoices_customer_fkey"}},
		{"extra check", `ALTER TABLE scratch ADD CHECK (id > 0)`, []string{"constraint scratch.scratch_id_check"}},
		{"enum label", `ALTER TYPE status ADD VALUE 'void'`, []string{"type status"}},
		{"enum labels in another order", `ALTER TYPE colour RENAME VALUE 'red' TO 'x'; ALTER TYPE colour RENAME VALUE 'green' TO 'red'; ALTER TYPE colour RENAME VALUE 'x' TO 'green'`,
			[]string{"type colour"}},
		{"domain", `ALTER DOMAIN email SET NOT NULL`, []string{"type email"}},
		{"check of a domain", `ALTER DOMAIN email DROP CONSTRAINT email_check`, []string{"constraint email.email_check"}},
		{"composite type", `ALTER TYPE address ADD ATTRIBUTE zip text`, []string{"type address"}},
		{"statistics", `ALTER STATISTICS invoices_statistics RENAME TO others`, []string{"statistics invoices_statistics", "statistics others"}},
	}
}

func codePlants() []plant {
	return []plant{
		{"function body", `CREATE OR REPLACE FUNCTION pick(status) RETURNS status LANGUAGE sql AS 'SELECT $1 LIMIT 1'`, []string{"function pick(status)"}},
		{"function attribute", `ALTER FUNCTION pick(integer) IMMUTABLE`, []string{"function pick(integer)"}},
		{"function setting", `ALTER FUNCTION pick(integer) SET work_mem = '1MB'`, []string{"function pick(integer)"}},
		{"search_path of a function", `ALTER FUNCTION secret() SET search_path = pg_catalog`, []string{"function secret()"}},
		{"security definer", `ALTER FUNCTION pick(integer) SECURITY DEFINER`, []string{"audit function pick(integer)", "function pick(integer)"}},
		{"missing function", `DROP FUNCTION listing`, []string{"function listing(status)"}},
		{"procedure", `CREATE OR REPLACE PROCEDURE tidy() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$`, []string{"function tidy()"}},
		{"aggregate", `CREATE OR REPLACE AGGREGATE total(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '1')`, []string{"function total(integer)"}},
		{"operator", `DROP OPERATOR === (status, status)`, []string{"object operator ===(status,status)"}},
		{"disabled trigger", `ALTER TABLE customers DISABLE TRIGGER customers_touch`, []string{"trigger customers.customers_touch"}},
		{"missing trigger", `DROP TRIGGER customers_touch ON customers`, []string{"trigger customers.customers_touch"}},
		{"foreign key that is off", `RESET ROLE; ALTER TABLE invoices DISABLE TRIGGER ALL`, []string{"trigger invoices, of invoices_customer_fkey"}},
		{"view", `CREATE OR REPLACE VIEW rich AS SELECT customers.id, totals.total FROM totals JOIN customers USING (id) WHERE totals.total > 1`, []string{"view rich"}},
		{"options of a view", `ALTER VIEW totals RESET (security_barrier)`, []string{"view totals"}},
		{"materialized view that is not filled", `REFRESH MATERIALIZED VIEW summary WITH NO DATA`, nil},
		{"index of a materialized view", `DROP INDEX summary_key`, []string{"index summary_key"}},
		{"rule", `DROP RULE keep ON invoices`, []string{"rule invoices.keep"}},
		{"policy", `ALTER POLICY visible ON invoices USING (true)`, []string{"policy invoices.visible"}},
		{"roles of a policy", `ALTER POLICY visible ON invoices TO {role}`, []string{"policy invoices.visible"}},
		{"row security", `ALTER TABLE invoices DISABLE ROW LEVEL SECURITY; ALTER TABLE customers FORCE ROW LEVEL SECURITY`, []string{"row security customers", "row security invoices"}},
		{"comment", `COMMENT ON TABLE customers IS 'x'`, nil},
	}
}

func rightsPlants() []plant {
	return []plant{
		{"extra grant", `GRANT SELECT ON scratch TO PUBLIC`, []string{"grant table scratch to PUBLIC"}},
		{"extra right", `GRANT TRUNCATE ON scratch TO {role}`, []string{"grant table scratch to the tenant's role"}},
		{"grant to a stranger", `GRANT SELECT ON scratch TO {bob}`, []string{"grant table scratch to {bob}"}},
		{"grant to another tenant", `GRANT SELECT ON scratch TO {reference}`, []string{"grant table scratch to {reference}"}},
		{"grant option", `GRANT SELECT ON scratch TO {role} WITH GRANT OPTION`, []string{"grant table scratch to the tenant's role"}},
		{"revoked grant", `REVOKE ALL ON scratch FROM {role}`, []string{"grant table scratch to the tenant's role"}},
		{"revoked from its owner", `REVOKE DELETE ON scratch FROM leasehold`, []string{"grant table scratch to its owner"}},
		{"granted and revoked", `REVOKE ALL ON FUNCTION pick(status) FROM PUBLIC; GRANT EXECUTE ON FUNCTION pick(status) TO PUBLIC`, nil},
		{"column grant", `GRANT SELECT (id) ON scratch TO PUBLIC`, []string{"grant column scratch.id to PUBLIC"}},
		{"grant on the schema", `GRANT CREATE ON SCHEMA {schema} TO {role}`, []string{"grant schema to the tenant's role"}},
		{"grant on a function", `GRANT EXECUTE ON PROCEDURE tidy() TO PUBLIC`, []string{"grant function tidy() to PUBLIC"}},
		{"grant on a type", `REVOKE USAGE ON TYPE status FROM PUBLIC`, []string{"grant type status to PUBLIC"}},
		{"default privileges", `ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO PUBLIC`, []string{"default privileges tables of the migrating role to PUBLIC"}},
		{"owner", `RESET ROLE; ALTER TABLE scratch OWNER TO {bob}`, []string{"owner table scratch"}},
		{"owner of a function", `RESET ROLE; ALTER FUNCTION pick(integer) OWNER TO {bob}`, []string{"owner function pick(integer)"}},
		{"owner of the schema", `RESET ROLE; ALTER SCHEMA {schema} OWNER TO {bob}; GRANT USAGE ON SCHEMA {schema} TO leasehold`,
			[]string{"grant schema to the migrating role", "owner schema"}},
		{"the ledger", `GRANT SELECT ON schema_migrations TO PUBLIC; ALTER TABLE schema_migrations ADD note text`, nil},
	}
}
