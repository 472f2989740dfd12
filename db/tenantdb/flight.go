package tenantdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// flight is what is sent in one write and answered before one ReadyForQuery: names to close, the scope, statements. What is
// asked for first is answered first, so the reading half mirrors the sending half.
type flight struct {
	s      *session
	p      *pgconn.Pipeline
	pooled bool
	// scope is nil inside a transaction, whose BEGIN has set it.
	scope *scope

	closes        int
	preparesScope bool
	// naming are the statements that get their name in this flight.
	naming map[statementKey]*pgconn.StatementDescription
}

// newFlight starts a flight and sends what comes before its first statement.
func newFlight(ctx context.Context, s *session, sc *scope, pooled bool) *flight {
	f := &flight{s: s, p: s.pg.StartPipeline(ctx), scope: sc, pooled: pooled}
	for _, name := range s.closing {
		f.p.SendDeallocate(name)
	}
	f.closes = len(s.closing)
	switch {
	case sc == nil:
	case pooled:
		f.p.SendQueryParams(scopeSQL, sc.args, scopeParamOIDs, nil, nil)
	default:
		if f.preparesScope = !s.scopeReady; f.preparesScope {
			f.p.SendPrepare(scopeName, scopeSQL, scopeParamOIDs)
		}
		f.p.SendQueryStatement(scopeDescription, sc.args, nil, nil)
	}
	return f
}

// depart sends the flight and reads the answers to what comes before its first statement.
func (f *flight) depart() error {
	if err := f.p.Sync(); err != nil {
		return err
	}
	for range f.closes {
		if err := expect[*pgconn.CloseComplete](f.p, nil); err != nil {
			return err
		}
	}
	f.s.closing = append(f.s.closing[:0], f.s.closing[f.closes:]...)
	if f.scope == nil {
		return nil
	}
	if f.preparesScope {
		if err := expect[*pgconn.StatementDescription](f.p, nil); err != nil {
			return err
		}
		f.s.scopeReady = true
	}
	var rr *pgconn.ResultReader
	err := expect(f.p, &rr)
	if err == nil {
		_, err = rr.Close()
	}
	if err != nil {
		return scopeError(f.scope, err)
	}
	return nil
}

// land reads to the end of the flight. Only now has the server committed, or said why not.
func (f *flight) land() error { return f.p.Close() }

// abandon lands a flight that has failed already.
func (f *flight) abandon() { _ = f.p.Close() } // the first error is the cause

// expect reads the next answer, which must be a T, into to if that is not nil.
func expect[T any](p *pgconn.Pipeline, to *T) error {
	got, err := p.GetResults()
	if err != nil {
		return err
	}
	t, ok := got.(T)
	if !ok {
		return unexpected(got)
	}
	if to != nil {
		*to = t
	}
	return nil
}

// shipment is one statement on a flight.
type shipment struct {
	key statementKey
	// desc is nil for a statement that the server is to describe by itself.
	desc *description
	// named is what the statement is called on the connection; nil if it travels without a name.
	named *pgconn.StatementDescription
	// naming says that it gets its name in this flight.
	naming bool
}

// ship chooses how a statement travels. It has a name if the connection knows it, gets one when it comes again, and has none
// the first time. Only a description that is sure to fit this tenant may be given a name: without one the server describes
// each result anew.
func (f *flight) ship(key statementKey, desc *description, sure, repeated bool) shipment {
	sh := shipment{key: key, desc: desc}
	if f.pooled || desc == nil || !sure {
		return sh
	}
	if sh.named = f.naming[key]; sh.named != nil {
		return sh
	}
	st, seen := f.s.statements.get(key)
	switch {
	case seen && st.sd != nil:
		sh.named = st.sd
	case seen || repeated:
		sh.naming = true
		sh.named = desc.statement(f.s.newName(), key.sql)
		if f.naming == nil {
			f.naming = make(map[statementKey]*pgconn.StatementDescription)
		}
		f.naming[key] = sh.named
	}
	return sh
}

// send queues a statement with its encoded parameters, which must stay as they are until its result is received.
func (f *flight) send(sh shipment, args *pgx.ExtendedQueryBuilder) {
	switch {
	case sh.named != nil:
		if sh.naming {
			f.p.SendPrepare(sh.named.Name, sh.key.sql, sh.named.ParamOIDs)
		}
		f.p.SendQueryStatement(sh.named, args.ParamValues, args.ParamFormats, args.ResultFormats)
	case sh.desc != nil:
		f.p.SendQueryParams(sh.key.sql, args.ParamValues, sh.desc.params, args.ParamFormats, args.ResultFormats)
	default:
		f.p.SendQueryParams(sh.key.sql, args.ParamValues, nil, args.ParamFormats, args.ResultFormats)
	}
}

// receive reads the answer up to the first row, and notes what the connection knows of the statement now.
func (f *flight) receive(sh shipment) (*pgconn.ResultReader, error) {
	if sh.naming {
		var fresh *pgconn.StatementDescription
		if err := expect(f.p, &fresh); err != nil {
			// The server may know the name or not; closing one that it does not know is no error.
			f.s.closing = append(f.s.closing, sh.named.Name)
			return nil, err
		}
		// The result that follows is read by these fields: they are as new as the statement.
		sh.named.Fields = fresh.Fields
		f.s.statements.put(sh.key, &statement{sd: sh.named})
	}
	var rr *pgconn.ResultReader
	err := expect(f.p, &rr)
	switch {
	case err != nil:
		if sh.named != nil && planIsStale(err) {
			f.s.statements.remove(sh.key)
		}
	case sh.named == nil && sh.desc != nil && !f.pooled:
		if _, seen := f.s.statements.get(sh.key); !seen {
			f.s.statements.put(sh.key, &statement{})
		}
	}
	return rr, err
}
