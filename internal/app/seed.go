package app

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// Seed gives the company that ctx carries something to look at: customers, and invoices in every state, dated around now. It
// does nothing in a company that has customers already, so it may run again; all of it is stored or nothing. Two calls for one
// company must not run at the same time. What acme and globex get has the same ids and nothing else in common; other companies
// get what acme gets.
func Seed(ctx context.Context, db Database, now time.Time) error {
	t, err := tenant.FromContext(ctx)
	if err != nil {
		return err
	}
	demo, found := demos[t.Slug]
	if !found {
		demo = demos["acme"]
	}
	today := now.UTC().Truncate(24 * time.Hour)
	err = db.InTx(ctx, func(tx pgx.Tx) error {
		q := tenantsql.New(tx)
		n, err := q.CountCustomers(ctx)
		if err != nil || n > 0 {
			return err
		}
		return demo.store(ctx, q, today)
	})
	if err != nil {
		return fmt.Errorf("seed %s: %w", t.Slug, err)
	}
	return nil
}

// demoSet is what a demo company starts with. Invoices name their customer by its place in the list: the ids of a new schema
// begin at 1.
type demoSet struct {
	customers []tenantsql.ImportCustomersParams
	invoices  []demoInvoice
}

type demoInvoice struct {
	customer int // from 0
	currency string
	// age is how many days ago it was issued, negative for a draft.
	age   int
	lines []demoLine
	paid  []int64 // cents, one payment a week
	void  bool
}

type demoLine struct {
	description    string
	quantity       quantity // in thousandths
	unitPriceCents int64
}

func (d demoSet) store(ctx context.Context, q *tenantsql.Queries, today time.Time) error {
	if _, err := q.ImportCustomers(ctx, d.customers); err != nil {
		return err
	}
	customers, err := q.ListCustomers(ctx, tenantsql.ListCustomersParams{PageSize: int32(len(d.customers))})
	if err != nil {
		return err
	}
	ids := make(map[string]int64, len(customers))
	for _, c := range customers {
		ids[c.Name] = c.ID
	}
	for _, inv := range d.invoices {
		if err := inv.store(ctx, q, ids[d.customers[inv.customer].Name], today); err != nil {
			return err
		}
	}
	return nil
}

func (inv demoInvoice) store(ctx context.Context, q *tenantsql.Queries, customerID int64, today time.Time) error {
	head := tenantsql.CreateInvoiceParams{CustomerID: customerID, Currency: inv.currency}
	issued := today.AddDate(0, 0, -inv.age)
	if inv.age >= 0 {
		head.IssuedOn = pgtype.Date{Time: issued, Valid: true}
	}
	lines := make([]tenantsql.AddInvoiceLinesParams, len(inv.lines))
	for i, line := range inv.lines {
		lines[i] = tenantsql.AddInvoiceLinesParams{
			Position: int32(i) + 1, Description: line.description,
			Quantity: line.quantity.numeric(), UnitPriceCents: line.unitPriceCents,
		}
	}
	id, err := insertInvoice(ctx, q, head, lines)
	if err != nil || inv.age < 0 {
		return err
	}
	issue := tenantsql.IssueInvoiceParams{ID: id, Today: head.IssuedOn, DaysToPay: daysToPay}
	if err := q.IssueInvoice(ctx, issue); err != nil {
		return err
	}
	for week, cents := range inv.paid {
		paidOn := pgtype.Date{Time: issued.AddDate(0, 0, 7*(week+1)), Valid: true}
		err := q.AddPayment(ctx, tenantsql.AddPaymentParams{InvoiceID: id, AmountCents: cents, PaidOn: paidOn})
		if err != nil {
			return err
		}
	}
	if inv.void {
		_, err = q.VoidInvoice(ctx, id)
	}
	return err
}
