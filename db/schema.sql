-- The schema of one tenant. Load it into an empty schema that is the first of the search_path.

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET check_function_bodies = false;

--
-- Name: invoice_status; Type: TYPE
--

CREATE TYPE invoice_status AS ENUM (
    'draft',
    'issued',
    'paid',
    'void'
);


--
-- Name: apply_payment(); Type: FUNCTION
--

CREATE FUNCTION apply_payment() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: next_invoice_number(date); Type: FUNCTION
--

CREATE FUNCTION next_invoice_number(on_day date) RETURNS text
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: number_invoice(); Type: FUNCTION
--

CREATE FUNCTION number_invoice() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.number := next_invoice_number(NEW.issued_on);
    RETURN NEW;
END
$$;


--
-- Name: touch_updated_at(); Type: FUNCTION
--

CREATE FUNCTION touch_updated_at() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;


--
-- Name: customers; Type: TABLE
--

CREATE TABLE customers (
    id bigint NOT NULL,
    name text NOT NULL,
    email text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT customers_email_check CHECK (((email ~ '^[^@[:space:]]+@[^@[:space:]]+$'::text) AND (char_length(email) <= 254))),
    CONSTRAINT customers_name_check CHECK (((btrim(name) <> ''::text) AND (char_length(name) <= 200)))
);


--
-- Name: customers_id_seq; Type: SEQUENCE
--

ALTER TABLE customers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME customers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: invoice_counters; Type: TABLE
--

CREATE TABLE invoice_counters (
    year integer NOT NULL,
    last_number integer NOT NULL
);


--
-- Name: invoice_lines; Type: TABLE
--

CREATE TABLE invoice_lines (
    id bigint NOT NULL,
    invoice_id bigint NOT NULL,
    "position" integer NOT NULL,
    description text NOT NULL,
    quantity numeric(12,3) NOT NULL,
    unit_price_cents bigint NOT NULL,
    amount_cents bigint GENERATED ALWAYS AS ((round((quantity * (unit_price_cents)::numeric)))::bigint) STORED NOT NULL,
    CONSTRAINT invoice_lines_amount_check CHECK ((amount_cents <= '10000000000000'::bigint)),
    CONSTRAINT invoice_lines_description_check CHECK (((btrim(description) <> ''::text) AND (char_length(description) <= 500))),
    CONSTRAINT invoice_lines_position_check CHECK (("position" > 0)),
    CONSTRAINT invoice_lines_quantity_check CHECK ((quantity > (0)::numeric)),
    CONSTRAINT invoice_lines_unit_price_check CHECK (((unit_price_cents >= 0) AND (unit_price_cents <= '1000000000000'::bigint)))
);


--
-- Name: invoice_lines_id_seq; Type: SEQUENCE
--

ALTER TABLE invoice_lines ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME invoice_lines_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: invoices; Type: TABLE
--

CREATE TABLE invoices (
    id bigint NOT NULL,
    number text,
    customer_id bigint NOT NULL,
    status invoice_status DEFAULT 'draft'::invoice_status NOT NULL,
    currency text NOT NULL,
    issued_on date,
    due_on date,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT invoices_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT invoices_draft_check CHECK (((status <> 'draft'::invoice_status) OR (number IS NULL))),
    CONSTRAINT invoices_issued_check CHECK (((status <> ALL (ARRAY['issued'::invoice_status, 'paid'::invoice_status])) OR ((number IS NOT NULL) AND (issued_on IS NOT NULL) AND (due_on IS NOT NULL))))
);


--
-- Name: payments; Type: TABLE
--

CREATE TABLE payments (
    id bigint NOT NULL,
    invoice_id bigint NOT NULL,
    amount_cents bigint NOT NULL,
    paid_on date NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT payments_amount_check CHECK ((amount_cents > 0))
);


--
-- Name: invoice_totals; Type: VIEW
--

CREATE VIEW invoice_totals AS
 SELECT i.id AS invoice_id,
    (( SELECT COALESCE(sum(l.amount_cents), (0)::numeric) AS "coalesce"
           FROM invoice_lines l
          WHERE (l.invoice_id = i.id)))::bigint AS total_cents,
    (( SELECT COALESCE(sum(p.amount_cents), (0)::numeric) AS "coalesce"
           FROM payments p
          WHERE (p.invoice_id = i.id)))::bigint AS paid_cents
   FROM invoices i;


--
-- Name: invoices_id_seq; Type: SEQUENCE
--

ALTER TABLE invoices ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME invoices_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: payments_id_seq; Type: SEQUENCE
--

ALTER TABLE payments ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME payments_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: schema_migrations; Type: TABLE
--

CREATE TABLE schema_migrations (
    version character varying NOT NULL,
    checksum bytea
);


--
-- Name: customers customers_pkey; Type: CONSTRAINT
--

ALTER TABLE ONLY customers
    ADD CONSTRAINT customers_pkey PRIMARY KEY (id);


--
-- Name: invoice_counters invoice_counters_pkey; Type: CONSTRAINT
--

ALTER TABLE ONLY invoice_counters
    ADD CONSTRAINT invoice_counters_pkey PRIMARY KEY (year);


--
-- Name: invoice_lines invoice_lines_pkey; Type: CONSTRAINT
--

ALTER TABLE ONLY invoice_lines
    ADD CONSTRAINT invoice_lines_pkey PRIMARY KEY (id);


--
-- Name: invoice_lines invoice_lines_position_key; Type: CONSTRAINT
--

ALTER TABLE ONLY invoice_lines
    ADD CONSTRAINT invoice_lines_position_key UNIQUE (invoice_id, "position");


--
-- Name: invoices invoices_number_key; Type: CONSTRAINT
--

ALTER TABLE ONLY invoices
    ADD CONSTRAINT invoices_number_key UNIQUE (number);


--
-- Name: invoices invoices_pkey; Type: CONSTRAINT
--

ALTER TABLE ONLY invoices
    ADD CONSTRAINT invoices_pkey PRIMARY KEY (id);


--
-- Name: payments payments_pkey; Type: CONSTRAINT
--

ALTER TABLE ONLY payments
    ADD CONSTRAINT payments_pkey PRIMARY KEY (id);


--
-- Name: schema_migrations schema_migrations_pkey; Type: CONSTRAINT
--

ALTER TABLE ONLY schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);


--
-- Name: customers_by_name; Type: INDEX
--

CREATE INDEX customers_by_name ON customers USING btree (lower(name), id);


--
-- Name: invoices_by_customer; Type: INDEX
--

CREATE INDEX invoices_by_customer ON invoices USING btree (customer_id);


--
-- Name: invoices_by_status; Type: INDEX
--

CREATE INDEX invoices_by_status ON invoices USING btree (status, id);


--
-- Name: payments_by_invoice; Type: INDEX
--

CREATE INDEX payments_by_invoice ON payments USING btree (invoice_id);


--
-- Name: customers customers_touch; Type: TRIGGER
--

CREATE TRIGGER customers_touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch_updated_at();


--
-- Name: invoices invoices_number; Type: TRIGGER
--

CREATE TRIGGER invoices_number BEFORE UPDATE ON invoices FOR EACH ROW WHEN (((old.status = 'draft'::invoice_status) AND (new.status = 'issued'::invoice_status))) EXECUTE FUNCTION number_invoice();


--
-- Name: invoices invoices_touch; Type: TRIGGER
--

CREATE TRIGGER invoices_touch BEFORE UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION touch_updated_at();


--
-- Name: payments payments_apply; Type: TRIGGER
--

CREATE TRIGGER payments_apply AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION apply_payment();


--
-- Name: invoice_lines invoice_lines_invoice_id_fkey; Type: FK CONSTRAINT
--

ALTER TABLE ONLY invoice_lines
    ADD CONSTRAINT invoice_lines_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES invoices(id) ON DELETE CASCADE;


--
-- Name: invoices invoices_customer_id_fkey; Type: FK CONSTRAINT
--

ALTER TABLE ONLY invoices
    ADD CONSTRAINT invoices_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers(id) DEFERRABLE INITIALLY DEFERRED;


--
-- Name: payments payments_invoice_id_fkey; Type: FK CONSTRAINT
--

ALTER TABLE ONLY payments
    ADD CONSTRAINT payments_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES invoices(id);


--
-- Dbmate schema migrations
--

INSERT INTO schema_migrations (version) VALUES
    ('20261120090000'),
    ('20261120091000'),
    ('20261120092000');
