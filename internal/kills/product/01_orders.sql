-- migrate:up
CREATE TYPE state AS ENUM ('open', 'paid');
CREATE TABLE orders (
	id int PRIMARY KEY,
	number text NOT NULL,
	state state NOT NULL DEFAULT 'open',
	total int NOT NULL DEFAULT 0
);
CREATE TABLE counter (n int NOT NULL);
CREATE TABLE runs (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL);
INSERT INTO orders (id, number) SELECT i, 'A-' || i FROM generate_series(1, 50) i;
INSERT INTO counter VALUES (1);
INSERT INTO runs (what) VALUES ('01 up');

-- migrate:down
DROP TABLE runs, counter, orders;
DROP TYPE state;
