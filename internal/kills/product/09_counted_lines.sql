-- migrate:up
CREATE FUNCTION count_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE orders SET total = total + 1 WHERE id = NEW.order_id;
	RETURN NEW;
END $$;
CREATE TRIGGER counted BEFORE INSERT ON lines FOR EACH ROW EXECUTE FUNCTION count_line();
INSERT INTO lines (order_id) SELECT id FROM orders WHERE id <= 10;
UPDATE counter SET n = n + 1;
INSERT INTO runs (what) VALUES ('09 up');

-- migrate:down
DROP TRIGGER counted ON lines;
DROP FUNCTION count_line;
DELETE FROM lines WHERE order_id <= 10;
UPDATE orders SET total = total - 1 WHERE id <= 10;
UPDATE counter SET n = n + 1000;
INSERT INTO runs (what) VALUES ('09 down');
