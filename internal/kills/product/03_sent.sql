-- migrate:up transaction:false
ALTER TYPE state ADD VALUE IF NOT EXISTS 'sent';

-- migrate:down
ALTER TABLE orders ALTER state DROP DEFAULT;
ALTER TYPE state RENAME TO state_with_sent;
CREATE TYPE state AS ENUM ('open', 'paid');
ALTER TABLE orders ALTER state TYPE state USING state::text::state;
ALTER TABLE orders ALTER state SET DEFAULT 'open';
DROP TYPE state_with_sent;
UPDATE counter SET n = n + 1000;
INSERT INTO runs (what) VALUES ('03 down');
