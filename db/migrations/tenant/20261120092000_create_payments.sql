-- migrate:up
CREATE TABLE payments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invoice_id bigint NOT NULL REFERENCES invoices (id),
    amount_cents bigint NOT NULL,
    paid_on date NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payments_amount_check CHECK (amount_cents > 0)
);

CREATE INDEX payments_by_invoice ON payments (invoice_id);

CREATE VIEW invoice_totals AS
SELECT
    i.id AS invoice_id,
    (SELECT coalesce(sum(l.amount_cents), 0) FROM invoice_lines AS l WHERE l.invoice_id = i.id)::bigint AS total_cents,
    (SELECT coalesce(sum(p.amount_cents), 0) FROM payments AS p WHERE p.invoice_id = i.id)::bigint AS paid_cents
FROM invoices AS i;

-- A payment is for an issued invoice and never exceeds what is open. The payment that covers the rest makes it paid. The
-- invoice is locked first, so that payments of one invoice are counted one after the other; the lock is the weaker one
-- because every payment already shares a key lock on its invoice through the foreign key.
CREATE FUNCTION apply_payment() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    state invoice_status;
    total bigint;
    paid bigint;
BEGIN
    SELECT i.status INTO state FROM invoices AS i WHERE i.id = NEW.invoice_id FOR NO KEY UPDATE;
    IF state IS DISTINCT FROM 'issued' THEN
        RAISE EXCEPTION 'invoice % is not open for payments', NEW.invoice_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'payments_invoice_issued';
    END IF;
    SELECT t.total_cents, t.paid_cents INTO total, paid FROM invoice_totals AS t WHERE t.invoice_id = NEW.invoice_id;
    IF paid > total THEN
        RAISE EXCEPTION 'payments of invoice % exceed its total', NEW.invoice_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'payments_within_total';
    END IF;
    IF paid = total THEN
        UPDATE invoices SET status = 'paid' WHERE id = NEW.invoice_id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER payments_apply AFTER INSERT ON payments
FOR EACH ROW EXECUTE FUNCTION apply_payment();

-- migrate:down
DROP VIEW invoice_totals;
DROP TABLE payments;
DROP FUNCTION apply_payment();
