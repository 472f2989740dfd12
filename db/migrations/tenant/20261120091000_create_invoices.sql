-- migrate:up
CREATE TYPE invoice_status AS ENUM ('draft', 'issued', 'paid', 'void');

-- A cent is a hundredth of the currency's unit, whatever the currency.
CREATE TABLE invoices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number text UNIQUE,
    customer_id bigint NOT NULL,
    status invoice_status NOT NULL DEFAULT 'draft',
    currency text NOT NULL,
    issued_on date,
    due_on date,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Checked at the end of the transaction, so that an import may bring invoices before their customers.
    CONSTRAINT invoices_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (id)
    DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT invoices_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT invoices_draft_check CHECK (status <> 'draft' OR number IS NULL),
    CONSTRAINT invoices_issued_check CHECK (
        status NOT IN ('issued', 'paid') OR (number IS NOT NULL AND issued_on IS NOT NULL AND due_on IS NOT NULL)
    )
);

CREATE INDEX invoices_by_customer ON invoices (customer_id);
CREATE INDEX invoices_by_status ON invoices (status, id);

CREATE TRIGGER invoices_touch BEFORE UPDATE ON invoices
FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- Amounts are rounded for each line, half away from zero; what is added up are whole cents.
CREATE TABLE invoice_lines (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invoice_id bigint NOT NULL REFERENCES invoices (id) ON DELETE CASCADE,
    position integer NOT NULL,
    description text NOT NULL,
    quantity numeric(12, 3) NOT NULL,
    unit_price_cents bigint NOT NULL,
    amount_cents bigint NOT NULL GENERATED ALWAYS AS (round(quantity * unit_price_cents)::bigint) STORED,
    CONSTRAINT invoice_lines_position_key UNIQUE (invoice_id, position),
    CONSTRAINT invoice_lines_position_check CHECK (position > 0),
    CONSTRAINT invoice_lines_description_check CHECK (btrim(description) <> '' AND char_length(description) <= 500),
    CONSTRAINT invoice_lines_quantity_check CHECK (quantity > 0),
    -- With these bounds and at most a few hundred lines a total stays below 2^53, which every JSON reader holds exactly.
    CONSTRAINT invoice_lines_unit_price_check CHECK (unit_price_cents BETWEEN 0 AND 1000000000000),
    CONSTRAINT invoice_lines_amount_check CHECK (amount_cents <= 10000000000000)
);

-- The last number given out in each year. It is a row and no sequence, because numbers may have no gaps: the row stays
-- locked until the invoice that took its number is committed, and goes back with it if it is not.
CREATE TABLE invoice_counters (
    year integer PRIMARY KEY,
    last_number integer NOT NULL
);

CREATE FUNCTION next_invoice_number(on_day date) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    in_year integer := extract(year FROM on_day);
    n integer;
BEGIN
    INSERT INTO invoice_counters AS c (year, last_number) VALUES (in_year, 1)
    ON CONFLICT (year) DO UPDATE SET last_number = c.last_number + 1
    RETURNING c.last_number INTO n;
    RETURN format('INV-%s-%s', in_year, lpad(n::text, greatest(4, length(n::text)), '0'));
END
$$;

-- The number is taken in a trigger, not in the UPDATE that issues: a trigger runs when the row is locked, so that of two
-- callers who issue one invoice at the same moment only one takes a number.
CREATE FUNCTION number_invoice() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.number := next_invoice_number(NEW.issued_on);
    RETURN NEW;
END
$$;

CREATE TRIGGER invoices_number BEFORE UPDATE ON invoices
FOR EACH ROW WHEN (OLD.status = 'draft' AND NEW.status = 'issued') EXECUTE FUNCTION number_invoice();

-- migrate:down
DROP TABLE invoice_lines;
DROP TABLE invoices;
DROP FUNCTION number_invoice();
DROP FUNCTION next_invoice_number(date);
DROP TABLE invoice_counters;
DROP TYPE invoice_status;
