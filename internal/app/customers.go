package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// SQLSTATEs that decide something here.
const (
	codeForeignKeyViolation = "23503"
	codeCheckViolation      = "23514"
)

// books keeps a company's customers, invoices and payments: the company that the context of each call carries. It is safe
// for concurrent use.
type books struct {
	db  Database
	now func() time.Time
}

type customer struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

type customerInput struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

const (
	maxNameLen  = 200
	maxEmailLen = 254
)

// check returns the input as it is to be stored, and notes what is wrong with it under prefix.
func (in customerInput) check(fields fieldErrors, prefix string) customerInput {
	in.Name = checkText(fields, prefix+"name", in.Name, maxNameLen)
	in.Email = checkText(fields, prefix+"email", in.Email, maxEmailLen)
	local, domain, found := strings.Cut(in.Email, "@")
	if !found || local == "" || domain == "" || strings.Contains(domain, "@") ||
		strings.ContainsFunc(in.Email, unicode.IsSpace) {
		fields.add(prefix+"email", "must be an e-mail address, such as mia@example.com")
	}
	return in
}

// checkText trims a required text and checks that it can be stored.
func checkText(fields fieldErrors, field, value string, maxLen int) string {
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		fields.add(field, "is missing")
	case !storable(value):
		fields.add(field, "holds characters that cannot be kept")
	case utf8.RuneCountInString(value) > maxLen:
		fields.add(field, fmt.Sprintf("may be at most %d characters long", maxLen))
	}
	return value
}

// storable reports whether s is text without control characters, which PostgreSQL refuses in part and nobody means to type.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func (b *books) listCustomers(ctx context.Context, l listing) (list[customer], error) {
	rows, err := tenantsql.New(b.db).ListCustomers(ctx, tenantsql.ListCustomersParams{
		AfterName: l.after.Name, AfterID: l.after.ID, PageSize: l.fetch(),
	})
	if err != nil {
		return list[customer]{}, fmt.Errorf("list customers: %w", err)
	}
	items := make([]customer, len(rows))
	for i, row := range rows {
		items[i] = customer(row)
	}
	return paged(l, items, func(c customer) cursor { return cursor{ID: c.ID, Name: c.Name} }), nil
}

func (b *books) customer(ctx context.Context, id int64) (customer, error) {
	row, err := tenantsql.New(b.db).GetCustomer(ctx, id)
	if err != nil {
		return customer{}, fmt.Errorf("get customer %d: %w", id, orNotFound(err))
	}
	return customer(row), nil
}

func (b *books) createCustomer(ctx context.Context, in customerInput) (customer, error) {
	fields := fieldErrors{}
	in = in.check(fields, "")
	if err := fields.orNil(); err != nil {
		return customer{}, err
	}
	row, err := tenantsql.New(b.db).CreateCustomer(ctx, tenantsql.CreateCustomerParams(in))
	if err != nil {
		return customer{}, fmt.Errorf("create a customer: %w", err)
	}
	return customer(row), nil
}

// maxImport bounds how many customers one import may bring.
const maxImport = 10_000

// maxImportErrors bounds the messages about one import.
const maxImportErrors = 20

// importCustomers brings in all of them or, after an error, none.
func (b *books) importCustomers(ctx context.Context, in []customerInput) (int64, error) {
	fields := fieldErrors{}
	switch {
	case len(in) == 0:
		fields.add("customers", "is empty")
	case len(in) > maxImport:
		fields.add("customers", fmt.Sprintf("may hold at most %d customers", maxImport))
	}
	rows := make([]tenantsql.ImportCustomersParams, 0, len(in))
	for i, c := range in {
		if len(fields) >= maxImportErrors {
			break
		}
		rows = append(rows, tenantsql.ImportCustomersParams(c.check(fields, fmt.Sprintf("customers[%d].", i))))
	}
	if err := fields.orNil(); err != nil {
		return 0, err
	}
	n, err := tenantsql.New(b.db).ImportCustomers(ctx, rows)
	if err != nil {
		return 0, fmt.Errorf("import customers: %w", err)
	}
	return n, nil
}

func (b *books) updateCustomer(ctx context.Context, id int64, in customerInput) (customer, error) {
	fields := fieldErrors{}
	in = in.check(fields, "")
	if err := fields.orNil(); err != nil {
		return customer{}, err
	}
	row, err := tenantsql.New(b.db).UpdateCustomer(ctx, tenantsql.UpdateCustomerParams{
		ID: id, Name: in.Name, Email: in.Email,
	})
	if err != nil {
		return customer{}, fmt.Errorf("update customer %d: %w", id, orNotFound(err))
	}
	return customer(row), nil
}

func (b *books) deleteCustomer(ctx context.Context, id int64) error {
	n, err := tenantsql.New(b.db).DeleteCustomer(ctx, id)
	switch {
	case violates(err, codeForeignKeyViolation, "invoices_customer_id_fkey"):
		return &publicError{errConflict, "This customer has invoices and cannot be deleted."}
	case err != nil:
		return fmt.Errorf("delete customer %d: %w", id, err)
	case n == 0:
		return errNotFound
	}
	return nil
}

// orNotFound says in this package's words that a row is missing.
func orNotFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return errNotFound
	}
	return err
}

// violates reports whether err is the server's, for this constraint.
func violates(err error, code, constraint string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code && pgErr.ConstraintName == constraint
}
