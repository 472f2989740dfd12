package app

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// invoice is an invoice with its lines, in the shape of the API.
type invoice struct {
	ID         int64                   `json:"id"`
	Number     *string                 `json:"number"`
	CustomerID int64                   `json:"customer_id"`
	Status     tenantsql.InvoiceStatus `json:"status"`
	Currency   string                  `json:"currency"`
	IssuedOn   pgtype.Date             `json:"issued_on"`
	DueOn      pgtype.Date             `json:"due_on"`
	Lines      []invoiceLine           `json:"lines"`
	TotalCents int64                   `json:"total_cents"`
	PaidCents  int64                   `json:"paid_cents"`

	CustomerName string `json:"-"`
}

type invoiceLine struct {
	Description    string   `json:"description"`
	Quantity       quantity `json:"quantity"`
	UnitPriceCents int64    `json:"unit_price_cents"`

	AmountCents int64 `json:"-"`
}

// invoiceInput is a new draft. The dates may be empty: the date of issue is then the day on which it is issued, the due date
// daysToPay later.
type invoiceInput struct {
	CustomerID int64       `json:"customer_id"`
	Currency   string      `json:"currency"`
	IssuedOn   string      `json:"issued_on"`
	DueOn      string      `json:"due_on"`
	Lines      []lineInput `json:"lines"`
}

type lineInput struct {
	Description    string      `json:"description"`
	Quantity       decimalText `json:"quantity"`
	UnitPriceCents *int64      `json:"unit_price_cents"`
}

// The bounds of a line are those of its columns. Together they keep every total below 2^53, which every JSON reader holds
// exactly.
const (
	maxLines          = 200
	maxDescriptionLen = 500
	maxQuantity       = quantity(999_999_999_999)
	maxUnitPriceCents = 1_000_000_000_000
	maxAmountCents    = 10_000_000_000_000
	daysToPay         = 30
)

// check returns the invoice and its lines as they are to be stored, without the id.
func (in invoiceInput) check(fields fieldErrors) (tenantsql.CreateInvoiceParams, []tenantsql.AddInvoiceLinesParams) {
	if in.CustomerID <= 0 {
		fields.add("customer_id", "is missing")
	}
	switch {
	case in.Currency == "":
		fields.add("currency", "is missing")
	case len(in.Currency) != 3 || strings.Trim(in.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		fields.add("currency", "must be a code of three capital letters, such as EUR")
	}
	head := tenantsql.CreateInvoiceParams{CustomerID: in.CustomerID, Currency: in.Currency}
	head.IssuedOn = checkDate(fields, "issued_on", in.IssuedOn)
	head.DueOn = checkDate(fields, "due_on", in.DueOn)
	if head.IssuedOn.Valid && head.DueOn.Valid && head.DueOn.Time.Before(head.IssuedOn.Time) {
		fields.add("due_on", "may not be before the date of issue")
	}
	switch {
	case len(in.Lines) == 0:
		fields.add("lines", "must have at least one line")
	case len(in.Lines) > maxLines:
		fields.add("lines", fmt.Sprintf("may have at most %d lines", maxLines))
	}
	return head, checkLines(fields, in.Lines)
}

func checkLines(fields fieldErrors, in []lineInput) []tenantsql.AddInvoiceLinesParams {
	lines := make([]tenantsql.AddInvoiceLinesParams, 0, len(in))
	total := new(big.Int)
	for i, line := range in[:min(len(in), maxLines)] {
		prefix := fmt.Sprintf("lines[%d].", i)
		q := checkQuantity(fields, prefix+"quantity", string(line.Quantity))
		price := checkUnitPrice(fields, prefix+"unit_price_cents", line.UnitPriceCents)
		amount := q.amount(price)
		if amount.Cmp(big.NewInt(maxAmountCents)) > 0 {
			fields.add(prefix+"quantity", "makes the line's amount too large")
		}
		total.Add(total, amount)
		lines = append(lines, tenantsql.AddInvoiceLinesParams{
			Position:       int32(i) + 1,
			Description:    checkText(fields, prefix+"description", line.Description, maxDescriptionLen),
			Quantity:       q.numeric(),
			UnitPriceCents: price,
		})
	}
	if len(fields) == 0 && total.Sign() == 0 {
		fields.add("lines", "must add up to more than zero")
	}
	return lines
}

// checkQuantity returns zero when there is something to say about the quantity.
func checkQuantity(fields fieldErrors, field, text string) quantity {
	if text == "" {
		fields.add(field, "is missing")
		return 0
	}
	n, err := parseDecimal(text, quantityPlaces)
	switch {
	case err != nil:
		fields.add(field, err.Error())
		return 0
	case n <= 0:
		fields.add(field, "must be more than zero")
		return 0
	case quantity(n) > maxQuantity:
		fields.add(field, errTooLarge.Error())
		return 0
	}
	return quantity(n)
}

// checkUnitPrice returns zero when there is something to say about the price.
func checkUnitPrice(fields fieldErrors, field string, cents *int64) int64 {
	switch {
	case cents == nil:
		fields.add(field, "is missing")
	case *cents < 0:
		fields.add(field, "may not be negative")
	case *cents > maxUnitPriceCents:
		fields.add(field, errTooLarge.Error())
	default:
		return *cents
	}
	return 0
}

// checkDate reads a date. An empty text is no date.
func checkDate(fields fieldErrors, field, text string) pgtype.Date {
	if text == "" {
		return pgtype.Date{}
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil || day.Year() < 1900 || day.Year() > 2999 {
		fields.add(field, "must be a date, such as 2026-01-31")
		return pgtype.Date{}
	}
	return pgtype.Date{Time: day, Valid: true}
}

// today is the day in UTC.
func (b *books) today() pgtype.Date {
	return pgtype.Date{Time: b.now().UTC().Truncate(24 * time.Hour), Valid: true}
}

// listInvoices returns the newest first; with a status only those.
func (b *books) listInvoices(ctx context.Context, status *tenantsql.InvoiceStatus, l listing) (list[invoice], error) {
	before := l.after.ID
	if before == 0 {
		before = math.MaxInt64
	}
	q := tenantsql.New(b.db)
	rows, err := q.ListInvoices(ctx, tenantsql.ListInvoicesParams{
		BeforeID: before, Status: status, PageSize: l.fetch(),
	})
	if err != nil {
		return list[invoice]{}, fmt.Errorf("list invoices: %w", err)
	}
	page := paged(l, rows, func(row tenantsql.ListInvoicesRow) cursor { return cursor{ID: row.ID} })
	items, err := withLines(ctx, q, page.Items)
	if err != nil {
		return list[invoice]{}, err
	}
	return list[invoice]{Items: items, NextCursor: page.NextCursor}, nil
}

// withLines adds the lines to invoices. Lines never change, so reading them a moment later shows the same.
func withLines(ctx context.Context, q *tenantsql.Queries, rows []tenantsql.ListInvoicesRow) ([]invoice, error) {
	invoices := make([]invoice, len(rows))
	ids := make([]int64, len(rows))
	byID := make(map[int64]*invoice, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
		byID[row.ID] = &invoices[i]
		invoices[i] = invoice{
			ID: row.ID, Number: row.Number, CustomerID: row.CustomerID, CustomerName: row.CustomerName, Status: row.Status,
			Currency: row.Currency, IssuedOn: row.IssuedOn, DueOn: row.DueOn, Lines: []invoiceLine{},
			TotalCents: row.TotalCents, PaidCents: row.PaidCents,
		}
	}
	lines, err := q.ListInvoiceLines(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("list the lines of invoices: %w", err)
	}
	for _, line := range lines {
		amount, err := quantityOf(line.Quantity)
		if err != nil {
			return nil, fmt.Errorf("line %d of invoice %d: %w", line.Position, line.InvoiceID, err)
		}
		inv := byID[line.InvoiceID]
		inv.Lines = append(inv.Lines, invoiceLine{
			Description: line.Description, Quantity: amount, UnitPriceCents: line.UnitPriceCents, AmountCents: line.AmountCents,
		})
	}
	return invoices, nil
}

func (b *books) invoice(ctx context.Context, id int64) (invoice, error) {
	q := tenantsql.New(b.db)
	row, err := q.GetInvoice(ctx, id)
	if err != nil {
		return invoice{}, fmt.Errorf("get invoice %d: %w", id, orNotFound(err))
	}
	invoices, err := withLines(ctx, q, []tenantsql.ListInvoicesRow{tenantsql.ListInvoicesRow(row)})
	if err != nil {
		return invoice{}, err
	}
	return invoices[0], nil
}

// createInvoice stores a draft. That the customer exists is checked by the deferred foreign key when it commits.
func (b *books) createInvoice(ctx context.Context, in invoiceInput) (invoice, error) {
	fields := fieldErrors{}
	head, lines := in.check(fields)
	if err := fields.orNil(); err != nil {
		return invoice{}, err
	}
	var id int64
	err := b.db.InTx(ctx, func(tx pgx.Tx) error {
		var err error
		id, err = insertInvoice(ctx, tenantsql.New(tx), head, lines)
		return err
	})
	switch {
	case violates(err, codeForeignKeyViolation, "invoices_customer_id_fkey"):
		return invoice{}, refused("customer_id", "does not exist")
	case err != nil:
		return invoice{}, fmt.Errorf("create an invoice: %w", err)
	}
	return b.invoice(ctx, id)
}

func insertInvoice(ctx context.Context, q *tenantsql.Queries, head tenantsql.CreateInvoiceParams,
	lines []tenantsql.AddInvoiceLinesParams,
) (int64, error) {
	id, err := q.CreateInvoice(ctx, head)
	if err != nil {
		return 0, err
	}
	for i := range lines {
		lines[i].InvoiceID = id
	}
	var errs []error
	q.AddInvoiceLines(ctx, lines).Exec(func(_ int, err error) { errs = append(errs, err) })
	return id, errors.Join(errs...)
}

// issueInvoice gives a draft its number, its dates and the status "issued".
func (b *books) issueInvoice(ctx context.Context, id int64) (invoice, error) {
	err := b.changeInvoice(ctx, id, func(q *tenantsql.Queries, status tenantsql.InvoiceStatus) error {
		if status != tenantsql.InvoiceStatusDraft {
			return &publicError{errConflict, "Only a draft can be issued; this invoice is " + string(status) + "."}
		}
		return q.IssueInvoice(ctx, tenantsql.IssueInvoiceParams{ID: id, Today: b.today(), DaysToPay: daysToPay})
	})
	if err != nil {
		return invoice{}, fmt.Errorf("issue invoice %d: %w", id, err)
	}
	return b.invoice(ctx, id)
}

// voidInvoice takes a draft or an issued invoice out of the books, as long as nothing was paid.
func (b *books) voidInvoice(ctx context.Context, id int64) (invoice, error) {
	err := b.changeInvoice(ctx, id, func(q *tenantsql.Queries, status tenantsql.InvoiceStatus) error {
		n, err := q.VoidInvoice(ctx, id)
		switch {
		case err != nil:
			return err
		case n == 0 && status == tenantsql.InvoiceStatusIssued:
			return &publicError{errConflict, "This invoice has payments and cannot be voided."}
		case n == 0:
			return &publicError{errConflict, "This invoice is " + string(status) + " and cannot be voided."}
		}
		return nil
	})
	if err != nil {
		return invoice{}, fmt.Errorf("void invoice %d: %w", id, err)
	}
	return b.invoice(ctx, id)
}

// changeInvoice runs change in a transaction, with the invoice locked.
func (b *books) changeInvoice(ctx context.Context, id int64,
	change func(q *tenantsql.Queries, status tenantsql.InvoiceStatus) error,
) error {
	return b.db.InTx(ctx, func(tx pgx.Tx) error {
		q := tenantsql.New(tx)
		status, err := q.LockInvoice(ctx, id)
		if err != nil {
			return orNotFound(err)
		}
		return change(q, status)
	})
}
