package app

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// paymentInput is a payment of an issued invoice. Without a date it was made today.
type paymentInput struct {
	AmountCents *int64 `json:"amount_cents"`
	PaidOn      string `json:"paid_on"`
}

func (in paymentInput) check(fields fieldErrors, today pgtype.Date) (cents int64, day pgtype.Date) {
	switch {
	case in.AmountCents == nil:
		fields.add("amount_cents", "is missing")
	case *in.AmountCents <= 0:
		fields.add("amount_cents", "must be more than zero")
	default:
		cents = *in.AmountCents
	}
	day = today
	if in.PaidOn != "" {
		day = checkDate(fields, "paid_on", in.PaidOn)
	}
	return cents, day
}

// addPayment notes a payment. The one that covers what is open makes the invoice paid; one that exceeds it is refused. Both
// are the database's doing, so that they hold whatever else runs.
func (b *books) addPayment(ctx context.Context, id int64, in paymentInput) (invoice, error) {
	fields := fieldErrors{}
	cents, day := in.check(fields, b.today())
	if err := fields.orNil(); err != nil {
		return invoice{}, err
	}
	err := b.changeInvoice(ctx, id, func(q *tenantsql.Queries, status tenantsql.InvoiceStatus) error {
		switch status {
		case tenantsql.InvoiceStatusIssued:
			return q.AddPayment(ctx, tenantsql.AddPaymentParams{InvoiceID: id, AmountCents: cents, PaidOn: day})
		case tenantsql.InvoiceStatusDraft:
			return &publicError{errConflict, "This invoice is a draft; issue it before it can be paid."}
		}
		return &publicError{errConflict, "This invoice is " + string(status) + " and takes no more payments."}
	})
	switch {
	case violates(err, codeCheckViolation, "payments_within_total"):
		return invoice{}, refused("amount_cents", "is more than what is open")
	case err != nil:
		return invoice{}, fmt.Errorf("pay invoice %d: %w", id, err)
	}
	return b.invoice(ctx, id)
}

func (b *books) payments(ctx context.Context, invoiceID int64) ([]tenantsql.ListPaymentsRow, error) {
	rows, err := tenantsql.New(b.db).ListPayments(ctx, invoiceID)
	if err != nil {
		return nil, fmt.Errorf("list payments of invoice %d: %w", invoiceID, err)
	}
	return rows, nil
}
