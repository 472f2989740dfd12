-- name: AddPayment :exec
INSERT INTO payments (invoice_id, amount_cents, paid_on) VALUES (@invoice_id, @amount_cents, @paid_on);

-- name: ListPayments :many
SELECT id, amount_cents, paid_on FROM payments WHERE invoice_id = @invoice_id
ORDER BY paid_on, id;
