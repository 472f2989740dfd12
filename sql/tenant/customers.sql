-- name: CreateCustomer :one
INSERT INTO customers (name, email) VALUES (@name, @email)
RETURNING id, name, email;

-- name: ImportCustomers :copyfrom
INSERT INTO customers (name, email) VALUES (@name, @email);

-- name: GetCustomer :one
SELECT id, name, email FROM customers WHERE id = @id;

-- The page after (after_name, after_id) in the order of names; an empty name and 0 begin at the top.
-- name: ListCustomers :many
SELECT id, name, email FROM customers
WHERE (lower(name), id) > (lower(@after_name::text), @after_id::bigint)
ORDER BY lower(name), id
LIMIT @page_size;

-- name: CountCustomers :one
SELECT count(*) FROM customers;

-- name: UpdateCustomer :one
UPDATE customers SET name = @name, email = @email WHERE id = @id
RETURNING id, name, email;

-- name: DeleteCustomer :execrows
DELETE FROM customers WHERE id = @id;
