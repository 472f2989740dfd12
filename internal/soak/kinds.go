package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// kind is a kind of operation.
type kind struct {
	name   string
	weight int // parts of all weights
	run    func(c *call, ctx context.Context) error
	// unrepeatable says that it has statements which cannot be sent a second time when their plan is out of date.
	unrepeatable bool
	// homeless says that it does not need the tenant's schema.
	homeless bool
	// hot says that it is for tenants that many use at once.
	hot bool
}

// kinds are all there are. Cheap ones are the most.
var kinds = []kind{
	{name: "read a row", weight: 300, run: single((*call).read)},
	{name: "list rows", weight: 80, run: single((*call).list)},
	{name: "close rows early", weight: 20, run: single((*call).closeEarly)},
	{name: "slow read", weight: 20, run: single((*call).slow)},
	{name: "find by own enum", weight: 100, run: single((*call).byMood)},
	{name: "ask who I am", weight: 60, run: single((*call).whoAmI)},
	{name: "increment", weight: 130, run: single((*call).increment)},
	{name: "insert", weight: 40, run: single((*call).insert)},
	{name: "batch", weight: 50, run: single((*call).batch), unrepeatable: true},
	{name: "copy", weight: 15, run: single((*call).copyIn), unrepeatable: true},
	{name: "transaction", weight: 45, run: (*call).transaction, unrepeatable: true},
	{name: "nested transaction", weight: 30, run: (*call).nested, unrepeatable: true},
	{name: "settings and cursor", weight: 10, run: (*call).cursor, unrepeatable: true},
	{name: "session of one's own", weight: 3, run: (*call).pinned, unrepeatable: true},
	{name: "conflict", weight: 20, run: (*call).conflict, unrepeatable: true, hot: true},
	{name: "panic", weight: 15, run: (*call).panics, unrepeatable: true},
	{name: "deferred violation", weight: 15, run: (*call).violation, unrepeatable: true},
	{name: "failing statement", weight: 20, run: (*call).failure},
	{name: "another's table", weight: 10, run: (*call).trespass},
	{name: "no tenant", weight: 5, run: (*call).withoutTenant, homeless: true},
	{name: "two tenants", weight: 10, run: (*call).twoTenants, homeless: true},
	{name: "refused statement", weight: 5, run: (*call).forbidden, homeless: true},
}

// single makes a kind of a step that runs by itself.
func single(s step) func(*call, context.Context) error {
	return func(c *call, ctx context.Context) error { return s(c, ctx, c.handle()) }
}

// errRollback asks for a rollback.
var errRollback = errors.New("roll back")

// someSteps runs one to three steps.
func (c *call) someSteps(ctx context.Context, q querier) error {
	for range 1 + c.rng.IntN(3) {
		if err := steps[c.rng.IntN(len(steps))](c, ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// transaction runs some steps and commits or rolls back.
func (c *call) transaction(ctx context.Context) error {
	c.void = c.rng.IntN(5) == 0
	err := c.inTx(ctx, c.handle(), func(tx pgx.Tx) error {
		if err := c.someSteps(ctx, tx); err != nil || !c.void {
			return err
		}
		return errRollback
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

// nested runs steps in savepoints, one of which is rolled back; the scope outside must stay.
func (c *call) nested(ctx context.Context) error {
	return c.inTx(ctx, c.handle(), func(tx pgx.Tx) error {
		if err := c.someSteps(ctx, tx); err != nil {
			return err
		}
		for range 1 + c.rng.IntN(2) {
			if err := c.savepoint(ctx, tx); err != nil || c.spoilt {
				return err
			}
			if err := c.whoAmI(ctx, tx); err != nil {
				return err
			}
		}
		return c.someSteps(ctx, tx)
	})
}

// savepoint runs steps in a savepoint, which is released, or rolled back: by itself, because a statement failed in it, or in vain.
func (c *call) savepoint(ctx context.Context, tx pgx.Tx) error {
	how := c.rng.IntN(4)
	c.void = how > 0
	defer func() { c.void = false }()
	inner, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if err := c.someSteps(ctx, inner); err != nil {
		return errors.Join(err, inner.Rollback(ctx))
	}
	switch how {
	case 0:
		return inner.Commit(ctx)
	case 1:
		_, err := inner.Exec(ctx, "SELECT 1 / (qty - qty) FROM items WHERE id = $1", c.id())
		if err := c.expect(err, fine, divisionByZero); err != nil {
			return errors.Join(err, inner.Rollback(ctx))
		}
	case 2:
		return c.rollbackInVain(ctx, inner)
	}
	return inner.Rollback(ctx)
}

// rollbackInVain rolls a savepoint back, and is cancelled at that. The error is passed over: what should have been undone must not be
// committed with the rest.
func (c *call) rollbackInVain(ctx context.Context, inner pgx.Tx) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(0, c.rng.IntN(400)-200))*time.Microsecond) // before it is sent, or after
	defer cancel()
	if err := inner.Rollback(ctx); err != nil {
		c.spoilt = true
	}
	return nil
}

// cursor changes settings for its transaction and leaves a cursor open.
func (c *call) cursor(ctx context.Context) error {
	return c.inTx(ctx, c.handle(), func(tx pgx.Tx) error {
		c.dirty = true
		sqls := []string{
			"SET LOCAL statement_timeout = '20s'",
			"SELECT set_config('app.note', '" + string(c.house.Slug) + "', true)",
			"DECLARE spot CURSOR FOR SELECT owner, mood FROM items ORDER BY id",
		}
		if c.house.temporary {
			sqls = append(sqls, "CREATE TEMP TABLE note ON COMMIT DROP AS SELECT owner FROM items")
		}
		for _, sql := range sqls {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		if err := c.readRow(tx.QueryRow(ctx, "FETCH 1 FROM spot")); err != nil {
			return err
		}
		var names int64
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM pg_prepared_statements").Scan(&names); err != nil {
			return err
		}
		c.soak.seeNames(names)
		return c.whoAmI(ctx, tx)
	})
}

// pinned opens a session and gives it back as dirty as a session can be.
func (c *call) pinned(ctx context.Context) error {
	s, err := c.soak.door.pin(ctx)
	if c.soak.site.pooled {
		return c.expectIs(err, refused, tenantdb.ErrRefused)
	}
	if err != nil {
		return err
	}
	defer s.Release()
	c.dirty = true
	channel := pgx.Identifier{c.house.ID.Channel("soak")}.Sanitize()
	sqls := []string{
		"SET statement_timeout = '20s'",
		fmt.Sprintf("SELECT pg_advisory_lock(%d)", c.house.ID.LockKey("soak")),
		"LISTEN " + channel,
		"NOTIFY " + channel + ", '" + string(c.house.Slug) + "'",
	}
	if c.house.temporary { // one that would stand before the tenant's own, if it could. It lacks what is written.
		sqls = append(sqls, "CREATE TEMP TABLE items AS SELECT 0 AS id, '"+nobody+"' AS owner, 'nothing' AS mood")
	}
	for _, sql := range sqls {
		if _, err := s.Exec(ctx, sql); err != nil {
			return err
		}
	}
	note, err := s.WaitForNotification(ctx)
	if err != nil {
		return err
	}
	if note.Payload != string(c.house.Slug) {
		return c.house.wrong("a notification", note.Payload)
	}
	c.unsent = true
	return pgx.BeginFunc(ctx, s, func(tx pgx.Tx) error { return c.toCommit(c.someSteps(ctx, tx)) })
}

// conflict reads a row of a busy tenant and writes it, in a transaction that must not have met anybody.
func (c *call) conflict(ctx context.Context) error {
	level := pgx.Serializable
	if c.rng.IntN(2) == 0 {
		level = pgx.RepeatableRead
	}
	c.unsent = true
	return pgx.BeginTxFunc(ctx, c.handle(), pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
		if err := c.slow(ctx, tx); err != nil {
			return err
		}
		c.intend(1)
		return c.toCommit(c.readRow(tx.QueryRow(ctx, returningSQL, 1))) // the same row for all
	})
}

// errBoom is what the soak panics with.
var errBoom = errors.New("boom")

// bomb panics where it is scanned into, and where it is sent.
type bomb struct{}

func (*bomb) Scan(any) error { panic(errBoom) }

func (bomb) Value() (driver.Value, error) { panic(errBoom) }

// panics panics in one of the places where code of the caller runs. The panic goes through to whoever runs the operation.
func (c *call) panics(ctx context.Context) (err error) {
	c.void = true
	h := c.handle()
	boom := func(tx pgx.Tx) error {
		if err := c.someSteps(ctx, tx); err != nil {
			return err
		}
		panic(errBoom)
	}
	switch c.rng.IntN(6) {
	case 0:
		err = c.inTx(ctx, h, boom)
	case 1:
		err = c.inTx(ctx, h, func(tx pgx.Tx) error { return pgx.BeginFunc(ctx, tx, boom) })
	case 2:
		err = h.QueryRow(ctx, readSQL, c.id()).Scan(&bomb{}, nil)
	case 3:
		_, err = h.Exec(ctx, incrementSQL, bomb{}, c.id(), string(c.house.Slug))
	case 4:
		rows, queryErr := h.Query(ctx, listSQL, c.soak.standing)
		if queryErr != nil {
			return queryErr
		}
		_, err = pgx.CollectRows(rows, func(pgx.CollectableRow) (int, error) { panic(errBoom) })
	case 5: // what was sent before is not undone
		c.void = false
		var b pgx.Batch
		c.queueOne(&b).QueryRow(func(row pgx.Row) error {
			if err := c.readRow(row); err != nil {
				return err
			}
			panic(errBoom)
		})
		err = h.SendBatch(ctx, &b).Close()
	}
	if err == nil {
		return fmt.Errorf("%w: %w", errMissed, errBoom)
	}
	return err
}

const orphanSQL = "INSERT INTO items (id, owner, parent) VALUES ($1, $2, -1)"

// violation inserts a row whose parent does not exist, which only the commit finds out.
func (c *call) violation(ctx context.Context) (err error) {
	c.void = true
	h, id, slug := c.handle(), c.house.newIDs(3), string(c.house.Slug)
	switch c.rng.IntN(5) {
	case 0:
		_, err = h.Exec(ctx, orphanSQL, id, slug)
	case 1:
		var owner string
		err = h.QueryRow(ctx, orphanSQL+" RETURNING owner", id, slug).Scan(&owner)
	case 2:
		var b pgx.Batch
		for i := range int32(3) {
			b.Queue(orphanSQL, id+i, slug)
		}
		br := h.SendBatch(ctx, &b)
		if c.rng.IntN(2) == 0 { // as sqlc does: the last result must tell, since nobody looks at Close
			err = readAll(br)
			_ = br.Close()
		} else {
			err = br.Close()
		}
	case 3:
		parent := -1
		err = c.copyRows(ctx, h, id, 3, &parent)
	case 4:
		err = h.InTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, orphanSQL, id, slug); err != nil {
				return err
			}
			return c.read(ctx, tx)
		})
	}
	return c.expect(err, deferred, foreignKey)
}

// readAll reads the results of a batch of three and returns the first error.
func readAll(br pgx.BatchResults) error {
	for range 3 {
		if _, err := br.Exec(); err != nil {
			return err
		}
	}
	return nil
}

// failure sends a statement that fails.
func (c *call) failure(ctx context.Context) error {
	h := c.handle()
	var err error
	switch c.rng.IntN(6) {
	case 0:
		_, err = h.Exec(ctx, "SELECT 1 / (qty - qty) FROM items WHERE id = $1", c.id())
		return c.expect(err, provoked, divisionByZero)
	case 1:
		_, err = h.Exec(ctx, insertSQL, c.id(), string(c.house.Slug), "calm", 0, nil)
		return c.expect(err, provoked, duplicateKey)
	case 2:
		_, err = h.Exec(ctx, "SELEKT owner FROM items")
		return c.expect(err, provoked, syntaxError)
	case 3:
		_, err = h.Exec(ctx, "SELECT owner FROM nowhere")
		return c.expect(err, provoked, undefinedTable)
	case 4: // a label of another tenant's enum
		_, err = h.Exec(ctx, moodSQL, c.other.label, c.id())
	case 5:
		_, err = h.Exec(ctx, insertSQL, c.house.newIDs(1), string(c.house.Slug), c.other.label, 0, nil)
	}
	if err == nil {
		return c.house.wrong("a label that is accepted", c.other.label)
	}
	return c.expect(err, provoked, invalidText)
}

// trespass reads another tenant's table by its full name.
func (c *call) trespass(ctx context.Context) error {
	before := c.other.look()
	var owner string
	err := c.handle().QueryRow(ctx, "SELECT owner FROM "+c.other.Placement.Schema+".items WHERE id = $1", c.id()).Scan(&owner)
	switch after := c.other.look(); {
	case err == nil:
		return c.house.wrong("a forbidden row's owner", owner)
	case c.other.Placement.Database != c.house.Placement.Database:
		return c.expect(err, denied, undefinedTable)
	case after.gone || !quiet(before, after):
		return c.expect(err, denied, lackOfPrivilege, undefinedTable)
	}
	return c.expect(err, denied, lackOfPrivilege)
}

// withoutTenant calls with a context that has no tenant.
func (c *call) withoutTenant(_ context.Context) error {
	ctx := c.soak.root // nobody's
	err := c.read(ctx, c.soak.door)
	if c.rng.IntN(2) == 0 {
		err = c.soak.door.InTx(ctx, func(tx pgx.Tx) error { return c.read(ctx, tx) })
	}
	return c.expectIs(err, noTenant, tenant.ErrNoTenant)
}

// twoTenants calls a handle of one tenant with the context of another, and a transaction likewise.
func (c *call) twoTenants(ctx context.Context) error {
	if c.rng.IntN(2) == 0 {
		return c.expectIs(c.read(ctx, c.soak.door.bound(c.other.Tenant)), mismatch, tenant.ErrMismatch)
	}
	c.void = true
	return c.inTx(ctx, c.handle(), func(tx pgx.Tx) error {
		return c.expectIs(c.increment(tenant.NewContext(ctx, c.other.Tenant), tx), mismatch, tenant.ErrMismatch)
	})
}

// forbidden sends what would outlive the scope.
func (c *call) forbidden(ctx context.Context) error {
	sqls := []string{
		"SET search_path = " + c.other.Placement.Schema,
		"SELECT set_config('search_path', '" + c.other.Placement.Schema + "', false)",
		"RESET ROLE", "BEGIN", "COMMIT", "LISTEN some", "PREPARE some AS SELECT 1", "DISCARD ALL",
	}
	_, err := c.handle().Exec(ctx, sqls[c.rng.IntN(len(sqls))])
	return c.expectIs(err, refused, tenantdb.ErrRefused)
}
