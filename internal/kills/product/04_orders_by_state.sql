-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_state ON orders (state, id);

-- migrate:down transaction:false
DROP INDEX CONCURRENTLY IF EXISTS orders_by_state;
