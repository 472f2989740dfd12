package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// flight is what is sent in one write and answered before one ReadyForQuery: names to close, the scope, statements. What is
// asked for first is answered first, so the reading half mirrors the sending half.
type flight struct {
	wire
	pooled bool
	// scope is nil inside a transaction, whose BEGIN has set it.
	scope *scope

	closes      int
	parsesScope bool
	// checked are the names under which statements are prepared only to see whether their descriptions fit the tenant.
	checked []string
	// savepoint says that a savepoint stands around the checks; unfit, that one of them failed.
	savepoint, unfit, parsesGuard bool
	// naming are the statements that get their name in this flight.
	naming map[statementKey]*statement
}

// begin starts a flight and sends what comes before its first statement.
func (f *flight) begin(ctx context.Context, s *session, sc *scope, pooled bool) error {
	f.scope, f.pooled = sc, pooled
	if err := f.open(ctx, s); err != nil {
		return err
	}
	for _, name := range s.unneeded {
		f.put((&pgproto3.Close{ObjectType: 'S', Name: name}).Encode(s.out))
	}
	f.closes = len(s.unneeded)
	if sc == nil {
		return nil
	}
	name := sc.name
	if pooled {
		name = ""
	}
	if f.parsesScope = pooled || !s.scopes[name]; f.parsesScope {
		f.sendParse(name, sc.sql, sc.oids)
	}
	f.sendBind(name, sc.args, nil, nil)
	f.put(executeAll.Encode(s.out))
	return nil
}

// depart sends the flight and reads the answers to what comes before its first statement.
func (f *flight) depart() error {
	if err := f.sync(); err != nil {
		return err
	}
	for range f.closes {
		if _, err := expect[*pgproto3.CloseComplete](&f.wire); err != nil {
			return err
		}
	}
	f.s.unneeded = append(f.s.unneeded[:0], f.s.unneeded[f.closes:]...)
	if f.scope == nil {
		return nil
	}
	if err := f.readScope(); err != nil {
		if planIsStale(err) {
			delete(f.s.scopes, f.scope.name)
		}
		return scopeError(f.scope, err)
	}
	return nil
}

// readScope reads the scope's answers: it is set when its command is complete.
func (f *flight) readScope() error {
	if f.parsesScope {
		if _, err := expect[*pgproto3.ParseComplete](&f.wire); err != nil {
			return err
		}
		if !f.pooled {
			f.s.scopes[f.scope.name] = true
		}
	}
	if _, err := expect[*pgproto3.BindComplete](&f.wire); err != nil {
		return err
	}
	_, err := expect[*pgproto3.CommandComplete](&f.wire)
	return err
}

// check is a statement and a description of it that may not fit the tenant.
type check struct {
	sql  string
	desc *description
}

// guardSQL fails with a division by zero unless each statement that was prepared under a name of $1 has the parameters that
// $2 says, as in "23,25,0". Types that are not built in count as 0.
const guardSQL = `SELECT WHERE 1 / (SELECT CASE WHEN count(*) = cardinality($1) THEN 1 ELSE 0 END
	FROM pg_catalog.pg_prepared_statements s JOIN unnest($1, $2) w (name, types) ON s.name = w.name
	WHERE w.types = (SELECT coalesce(string_agg(CASE WHEN p.t::oid::int8 < 16384 THEN p.t::oid::text ELSE '0' END, ',' ORDER BY p.n), '')
		FROM unnest(s.parameter_types) WITH ORDINALITY p (t, n))) = 0`

const guardName = "lh_guard"

// check has the server work out the parameters of statements for this tenant, and stops the flight before anything is
// executed if they are not those of the descriptions: a value that was encoded for another type might be converted without an
// error, and lose something. In a transaction a savepoint keeps the failure from ending it. A statement without parameters
// needs no check. SQL's own PREPARE is used because poolers leave its names alone.
func (f *flight) check(inTx bool, checks []check) {
	var names, types []string
	seen := make(map[string]bool)
	var prepare []string
	for _, c := range checks {
		if len(c.desc.sd.ParamOIDs) == 0 || seen[c.sql] {
			continue
		}
		seen[c.sql] = true
		name := f.s.newName()
		if f.pooled { // the server behind may have been somebody else's before
			name = fmt.Sprintf("lh_check_%016x", rand.Uint64())
		}
		oids := make([]string, len(c.desc.sd.ParamOIDs))
		for i, oid := range c.desc.sd.ParamOIDs {
			oids[i] = strconv.FormatUint(uint64(oid), 10)
		}
		names, types = append(names, name), append(types, `"`+strings.Join(oids, ",")+`"`)
		prepare = append(prepare, "PREPARE "+name+" AS "+c.sql)
	}
	if f.checked = names; len(names) == 0 {
		return
	}
	if f.savepoint = inTx; inTx {
		f.sendCommand("SAVEPOINT leasehold_check")
	}
	for _, sql := range prepare {
		f.sendCommand(sql)
	}
	name := guardName
	if f.pooled {
		name = ""
	}
	if f.parsesGuard = f.pooled || !f.s.scopes[name]; f.parsesGuard {
		f.sendParse(name, guardSQL, []uint32{pgtype.TextArrayOID, pgtype.TextArrayOID})
	}
	f.sendBind(name, [][]byte{[]byte("{" + strings.Join(names, ",") + "}"), []byte("{" + strings.Join(types, ",") + "}")}, nil, nil)
	f.put(executeAll.Encode(f.s.out))
	for _, name := range names {
		f.sendCommand("DEALLOCATE " + name)
	}
	if inTx {
		f.sendCommand("RELEASE SAVEPOINT leasehold_check")
	}
}

// readChecks reads the answers to check. On error nothing of the callers' was executed.
func (f *flight) readChecks() error {
	if len(f.checked) == 0 {
		return nil
	}
	if err := f.readGuard(); err != nil {
		f.unfit = true
		if !f.pooled {
			f.s.unneeded = append(f.s.unneeded, f.checked...)
		}
		return f.misfit(err)
	}
	return nil
}

// errMisfit is what a caller is told if a statement whose description did not fit cannot be sent again.
var errMisfit = errors.New("tenantdb: the statement has other parameters in this tenant, and could not be sent again; nothing was executed")

// misfit keeps the guard's own error from the caller, for whom nothing was divided: it says what stands in the way of the repeat.
func (f *flight) misfit(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != codeDivisionByZero {
		return err
	}
	switch cause := context.Cause(f.ctx); {
	case cause != nil:
		return fmt.Errorf("%w: %w", errMisfit, cause)
	case f.s.pg.IsClosed():
		return fmt.Errorf("%w: %w", errMisfit, pgconn.ErrConnClosed)
	}
	return errMisfit
}

func (f *flight) readGuard() error {
	commands := len(f.checked)
	if f.savepoint {
		commands++
	}
	for range commands {
		if err := f.readCommand(); err != nil {
			return err
		}
	}
	if f.parsesGuard {
		if _, err := expect[*pgproto3.ParseComplete](&f.wire); err != nil {
			return err
		}
		if !f.pooled {
			f.s.scopes[guardName] = true
		}
	}
	if _, err := expect[*pgproto3.BindComplete](&f.wire); err != nil {
		return err
	}
	if _, err := expect[*pgproto3.CommandComplete](&f.wire); err != nil {
		return err
	}
	for range commands {
		if err := f.readCommand(); err != nil {
			return err
		}
	}
	return nil
}

// uncheck returns a transaction to the state before a check that failed.
func (f *flight) uncheck(ctx context.Context, s *session) error {
	var back flight
	if err := back.begin(ctx, s, nil, f.pooled); err != nil {
		return err
	}
	back.sendCommand("ROLLBACK TO SAVEPOINT leasehold_check")
	back.sendCommand("RELEASE SAVEPOINT leasehold_check")
	if err := back.depart(); err != nil {
		return err
	}
	return back.land()
}

// sendCommand queues a command without parameters and results.
func (f *flight) sendCommand(sql string) {
	f.sendParse("", sql, nil)
	f.sendBind("", nil, nil, nil)
	f.put(executeAll.Encode(f.s.out))
}

func (f *flight) readCommand() error {
	if _, err := expect[*pgproto3.ParseComplete](&f.wire); err != nil {
		return err
	}
	if _, err := expect[*pgproto3.BindComplete](&f.wire); err != nil {
		return err
	}
	_, err := expect[*pgproto3.CommandComplete](&f.wire)
	return err
}

// shipment is one statement on a flight.
type shipment struct {
	key statementKey
	// desc is nil for a statement that the server is to describe by itself. It may be wrong for the tenant unless it is sure.
	desc *description
	sure bool
	// named is what the connection calls the statement; nil if it travels without a name.
	named *statement
	// naming says that it gets its name in this flight.
	naming bool
	// describes says that the server is asked for the columns of the result.
	describes bool
	// fields are the columns of the result, known before or told by the server.
	fields []pgconn.FieldDescription
}

// parses reports whether the statement's text is sent.
func (sh *shipment) parses() bool { return sh.named == nil || sh.naming }

// ship chooses how a statement travels. It has a name if the connection knows it, gets one when it comes again, and has none
// the first time. Only a description that is sure to fit this tenant may be given a name: without one the server describes
// each result anew.
func (f *flight) ship(key statementKey, desc *description, sure, repeated bool) shipment {
	sh := shipment{key: key, desc: desc, sure: sure}
	if f.pooled || desc == nil || !sure {
		return sh
	}
	if sh.named = f.naming[key]; sh.named != nil {
		return sh
	}
	st, seen := f.s.statements.get(key)
	switch {
	case seen && st.name != "" && st.desc == desc:
		sh.named = st
	case seen || repeated:
		sh.naming = true
		f.s.statements.remove(key) // a name that was parsed with another description is closed
		sh.named = &statement{name: f.s.newName(), desc: desc}
		if f.naming == nil {
			f.naming = make(map[statementKey]*statement)
		}
		f.naming[key] = sh.named
	}
	return sh
}

// send queues a statement with its encoded parameters.
func (f *flight) send(sh *shipment, args *pgx.ExtendedQueryBuilder, usualFormats bool) {
	name := ""
	if sh.named != nil {
		name = sh.named.name
	}
	if sh.parses() {
		var oids []uint32
		if sh.desc != nil {
			oids = sh.desc.sd.ParamOIDs
		}
		f.sendParse(name, sh.key.sql, oids)
	}
	f.sendBind(name, args.ParamValues, args.ParamFormats, args.ResultFormats)
	if sh.describes = sh.parses() || !usualFormats || len(sh.named.fields) == 0; sh.describes {
		f.put(describePortal.Encode(f.s.out))
	} else {
		sh.fields = sh.named.fields
	}
	f.put(executeAll.Encode(f.s.out))
}

// receive reads the answers that come before the statement is executed, and notes what the connection knows of it now. An
// error means that nothing of it was executed.
func (f *flight) receive(sh *shipment) error {
	if err := f.receiveHead(sh); err != nil {
		return err
	}
	if sh.named == nil && sh.desc != nil && !f.pooled {
		if _, seen := f.s.statements.get(sh.key); !seen {
			f.s.statements.put(sh.key, &statement{})
		}
	}
	return nil
}

func (f *flight) receiveHead(sh *shipment) error {
	if sh.parses() {
		_, err := expect[*pgproto3.ParseComplete](&f.wire)
		switch {
		case err != nil && sh.naming: // the server may know the name or not; closing one that it does not know is no error
			f.s.unneeded = append(f.s.unneeded, sh.named.name)
			return err
		case err != nil:
			return err
		case sh.naming:
			f.s.statements.put(sh.key, sh.named)
		}
	}
	if _, err := expect[*pgproto3.BindComplete](&f.wire); err != nil {
		return err
	}
	if !sh.describes {
		return nil
	}
	msg, err := f.next()
	if err != nil {
		return err
	}
	switch msg := msg.(type) {
	case *pgproto3.RowDescription:
		sh.fields = fieldsOf(msg)
		if sh.naming {
			sh.named.fields = f.usual(sh.fields)
		}
	case *pgproto3.NoData:
	default:
		return f.unexpected(msg)
	}
	return nil
}

// usual returns the fields in the formats that are asked for unless the caller says otherwise.
func (f *flight) usual(fields []pgconn.FieldDescription) []pgconn.FieldDescription {
	usual := append([]pgconn.FieldDescription(nil), fields...)
	for i := range usual {
		usual[i].Format = f.s.conn.TypeMap().FormatCodeForOID(usual[i].DataTypeOID)
	}
	return usual
}

// ask has the server describe statements in a flight of their own.
func (f *flight) ask(sqls []string) ([]*description, error) {
	for _, sql := range sqls {
		f.sendParse("", sql, nil)
		f.put((&pgproto3.Describe{ObjectType: 'S'}).Encode(f.s.out))
	}
	if err := f.depart(); err != nil {
		return nil, err
	}
	descs := make([]*description, len(sqls))
	for i := range descs {
		if _, err := expect[*pgproto3.ParseComplete](&f.wire); err != nil {
			return nil, err
		}
		params, err := expect[*pgproto3.ParameterDescription](&f.wire)
		if err != nil {
			return nil, err
		}
		descs[i] = newDescription(params.ParameterOIDs, classify(sqls[i]))
		msg, err := f.next()
		if err != nil {
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.RowDescription:
			for _, field := range msg.Fields {
				descs[i].addColumn(field.DataTypeOID)
			}
		case *pgproto3.NoData:
		default:
			return nil, f.unexpected(msg)
		}
	}
	return descs, f.land()
}
