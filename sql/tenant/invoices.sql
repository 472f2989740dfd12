-- name: CreateInvoice :one
INSERT INTO invoices (customer_id, currency, issued_on, due_on)
VALUES (@customer_id, @currency, sqlc.narg('issued_on'), sqlc.narg('due_on'))
RETURNING id;

-- name: AddInvoiceLines :batchexec
INSERT INTO invoice_lines (invoice_id, position, description, quantity, unit_price_cents)
VALUES (@invoice_id, @position, @description, @quantity, @unit_price_cents);

-- name: GetInvoice :one
SELECT
    i.id, i.number, i.customer_id, c.name AS customer_name, i.status, i.currency, i.issued_on, i.due_on,
    t.total_cents, t.paid_cents
FROM invoices AS i
JOIN customers AS c ON c.id = i.customer_id
JOIN invoice_totals AS t ON t.invoice_id = i.id
WHERE i.id = @id;

-- The newest first, below before_id; all of them without a status.
-- name: ListInvoices :many
SELECT
    i.id, i.number, i.customer_id, c.name AS customer_name, i.status, i.currency, i.issued_on, i.due_on,
    t.total_cents, t.paid_cents
FROM invoices AS i
JOIN customers AS c ON c.id = i.customer_id
JOIN invoice_totals AS t ON t.invoice_id = i.id
WHERE i.id < @before_id AND (sqlc.narg('status')::invoice_status IS NULL OR i.status = sqlc.narg('status'))
ORDER BY i.id DESC
LIMIT @page_size;

-- name: ListInvoiceLines :many
SELECT invoice_id, position, description, quantity, unit_price_cents, amount_cents FROM invoice_lines
WHERE invoice_id = ANY(@invoice_ids::bigint[])
ORDER BY invoice_id, position;

-- The lock under which an invoice changes its status.
-- name: LockInvoice :one
SELECT status FROM invoices WHERE id = @id FOR NO KEY UPDATE;

-- A due date that the draft does not name is counted from the day of issue. The number comes from a trigger.
-- name: IssueInvoice :exec
UPDATE invoices SET
    status = 'issued',
    issued_on = coalesce(issued_on, @today::date),
    due_on = coalesce(due_on, coalesce(issued_on, @today::date) + @days_to_pay::integer)
WHERE id = @id AND status = 'draft';

-- name: VoidInvoice :execrows
UPDATE invoices SET status = 'void'
WHERE
    invoices.id = @id AND invoices.status IN ('draft', 'issued')
    AND NOT EXISTS (SELECT 1 FROM payments AS p WHERE p.invoice_id = invoices.id);

-- What is open in each currency, and the part of it that is past its due date.
-- name: SumOpenInvoices :many
SELECT
    i.currency,
    count(*) AS invoices,
    sum(t.total_cents - t.paid_cents)::bigint AS open_cents,
    coalesce(sum(t.total_cents - t.paid_cents) FILTER (WHERE i.due_on < @today::date), 0)::bigint AS overdue_cents
FROM invoices AS i
JOIN invoice_totals AS t ON t.invoice_id = i.id
WHERE i.status = 'issued'
GROUP BY i.currency
ORDER BY i.currency;
