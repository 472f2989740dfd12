-- migrate:up transaction:false
DROP INDEX CONCURRENTLY IF EXISTS orders_by_state;

-- migrate:down transaction:false
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_state ON orders (state, id);
