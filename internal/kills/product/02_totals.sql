-- migrate:up
UPDATE orders SET total = total + 1;
UPDATE counter SET n = n + 1;
INSERT INTO runs (what) VALUES ('02 up');

-- migrate:down
UPDATE orders SET total = total - 1;
UPDATE counter SET n = n + 1000;
INSERT INTO runs (what) VALUES ('02 down');
