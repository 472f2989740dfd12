package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
)

// call is one operation under way. It belongs to one goroutine.
type call struct {
	soak  *soak
	rng   *rand.Rand
	house *house
	other *house // another tenant

	ticket *ticket // nil as long as nothing was intended
	// void says that what is written now will be rolled back.
	void bool
	// unsent says that the commit was not sent, so that nothing can have been committed.
	unsent bool
	// dirty says that settings were changed for the rest of the transaction.
	dirty bool
	// spoilt says that the operation has cancelled a part of itself.
	spoilt bool
	// class is what the operation found out by itself, when it returns nil.
	class class
}

// handle returns a way to the tenant: through the context, or bound.
func (c *call) handle() handle {
	if c.rng.IntN(5) == 0 {
		return c.soak.door.bound(c.house.Tenant)
	}
	return c.soak.door
}

// id returns the id of a standing row.
func (c *call) id() int { return 1 + c.rng.IntN(c.soak.standing) }

// intend announces what a write will do.
func (c *call) intend(added int64, blocks ...block) {
	if c.void {
		return
	}
	if c.ticket == nil {
		c.ticket = c.house.newTicket()
	}
	c.ticket.intend(added, blocks...)
}

// settle enters what became of the operation's writes into the books.
func (c *call) settle(err error) {
	if c.ticket == nil {
		return
	}
	o := outcomeOf(err, !c.unsent)
	if c.class == panicked {
		o = unknown
	}
	c.ticket.close(o)
}

// nobody owns the row of a session's temporary table, which is in sight when the tenant's schema has gone.
const nobody = "nobody"

// checkOwner checks whose row was read.
func (c *call) checkOwner(owner string) error {
	switch {
	case owner == string(c.house.Slug):
		return nil
	case owner == nobody && c.dirty: // it has made such a table itself
		return errNowhere
	}
	return c.house.wrong("owner", owner)
}

// checkRow checks whose row was read, by its text and by the tenant's own enum.
func (c *call) checkRow(owner, mood string) error {
	if err := c.checkOwner(owner); err != nil {
		return err
	}
	if mood != c.house.label && mood != "calm" {
		return c.house.wrong("mood", mood)
	}
	return nil
}

// expect turns an error that had to come into the class of the operation. Any other error stays.
func (c *call) expect(err error, cl class, codes ...string) error {
	if err == nil {
		return fmt.Errorf("%w: SQLSTATE %v", errMissed, codes)
	}
	got := sqlstate(err)
	for _, code := range codes {
		if got == code {
			c.class = cl
			return nil
		}
	}
	return err
}

// expectIs is expect for an error without an SQLSTATE.
func (c *call) expectIs(err error, cl class, target error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%w: %w", errMissed, target)
	case errors.Is(err, target):
		c.class = cl
		return nil
	}
	return err
}

// inTx runs body in a transaction of h that is committed if body returns nil.
func (c *call) inTx(ctx context.Context, h handle, body func(tx pgx.Tx) error) error {
	c.unsent = true
	return h.InTx(ctx, func(tx pgx.Tx) error { return c.toCommit(body(tx)) })
}

// toCommit notes that the commit will be sent, unless err says that it will not.
func (c *call) toCommit(err error) error {
	c.unsent = err != nil
	return err
}
