-- migrate:up
ALTER TABLE orders ADD COLUMN note text, ADD CONSTRAINT total_is_positive CHECK (total >= 0) NOT VALID;
UPDATE orders SET note = 'sum ' || total, total = total * 2, state = 'sent' WHERE id % 2 = 0;
ALTER TABLE orders VALIDATE CONSTRAINT total_is_positive;
CREATE INDEX orders_by_note ON orders (note) WHERE note IS NOT NULL;
UPDATE counter SET n = n + 1;
INSERT INTO runs (what) VALUES ('05 up');

-- migrate:down
UPDATE orders SET total = total / 2, state = 'open' WHERE id % 2 = 0;
ALTER TABLE orders DROP CONSTRAINT total_is_positive, DROP COLUMN note;
UPDATE counter SET n = n + 1000;
INSERT INTO runs (what) VALUES ('05 down');
