-- migrate:up transaction:false
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS orders_by_number ON orders (number);

-- migrate:down transaction:false
DROP INDEX CONCURRENTLY IF EXISTS orders_by_number;
