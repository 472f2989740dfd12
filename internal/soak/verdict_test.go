package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	code := func(c string) error { return fmt.Errorf("x: %w", &pgconn.PgError{Code: c}) }
	missing := fmt.Errorf("%w: %w", tenantdb.ErrSchemaMissing, code(invalidSchema))
	waited := fmt.Errorf("%w: %w", tenantdb.ErrBusy, context.Canceled)
	still, gone, changing := circumstances{}, circumstances{}, circumstances{}
	gone.before, gone.after = sight{2, true}, sight{2, true}
	changing.before, changing.after = sight{2, false}, sight{3, false}
	with := func(c circumstances, change func(*circumstances)) circumstances { change(&c); return c }
	cancelled := with(still, func(c *circumstances) { c.cancelled = true })
	expired := with(still, func(c *circumstances) { c.expired = true })
	long := with(still, func(c *circumstances) { c.before.version, c.after.version = 4, 4 })
	for name, tc := range map[string]struct {
		in   circumstances
		err  error
		want class
	}{
		"success":                             {still, nil, fine},
		"wrong row":                           {cancelled, fmt.Errorf("x: %w", errWrongRow), wrongRow},
		"an error that did not come":          {cancelled, errMissed, other},
		"a panic":                             {still, errPanicked, other},
		"success where nothing is":            {gone, nil, other},
		"no need of what is gone":             {with(gone, func(c *circumstances) { c.homeless = true }), nil, fine},
		"cancelled":                           {cancelled, context.Canceled, cancelledFlying},
		"cancelled waiting":                   {cancelled, waited, cancelledWaiting},
		"cancelled by the server":             {cancelled, code(queryCanceled), cancelledFlying},
		"cancelled with the connection":       {cancelled, io.ErrUnexpectedEOF, cancelledFlying},
		"cancelled, and does not say so":      {cancelled, errors.New("x"), other},
		"somebody else was cancelled":         {still, context.Canceled, other},
		"somebody else's cancel request":      {still, code(queryCanceled), other},
		"busy":                                {expired, fmt.Errorf("%w: %w", tenantdb.ErrBusy, context.DeadlineExceeded), busy},
		"busy for no reason":                  {still, tenantdb.ErrBusy, other},
		"late":                                {expired, context.DeadlineExceeded, late},
		"an error of its own while cancelled": {cancelled, code(divisionByZero), other},
		"missing":                             {gone, missing, schemaMissing},
		"missing just now":                    {changing, missing, schemaMissing},
		"missing while it stood":              {still, missing, other},
		"another error of the missing":        {gone, code(undefinedTable), other},
		"no table in the change":              {changing, code(undefinedTable), schemaChanged},
		"no table while it stood":             {still, code(undefinedTable), other},
		"no rows in the change":               {changing, pgx.ErrNoRows, schemaChanged},
		"no rows while it stood":              {still, pgx.ErrNoRows, other},
		"too few rows while it stood":         {still, errShort, other},
		"nowhere in the change":               {changing, errNowhere, schemaChanged},
		"nowhere while it stood":              {still, errNowhere, other},
		"a stale plan outside a transaction":  {long, code(notSupported), other},
		"a stale plan in a transaction":       {with(long, func(c *circumstances) { c.unrepeatable = true }), code(notSupported), stalePlan},
		"stale, and it never changed":         {with(still, func(c *circumstances) { c.unrepeatable = true }), code(notSupported), other},
		"stale, and too late for another try": {with(long, func(c *circumstances) { c.expired = true }),
			fmt.Errorf("%w: %w", context.DeadlineExceeded, code(notSupported)), late},
		"stale, late, and it never changed": {expired, fmt.Errorf("%w: %w", context.DeadlineExceeded, code(notSupported)), other},
		"stale in time, and no other try":   {with(long, func(c *circumstances) { c.expired = true }), code(notSupported), other},
		"stale, and the connection lost":    {long, fmt.Errorf("%w: %w", pgconn.ErrConnClosed, code(notSupported)), terminated},
		"terminated":                        {still, code(adminShutdown), terminated},
		"the connection is lost":            {still, io.EOF, terminated},
		"the connection was lost":           {still, pgconn.ErrConnClosed, terminated},
		"the pooler's word for it":          {with(still, func(c *circumstances) { c.pooled = true }), code(protocolViolation), terminated},
		"the protocol is violated":          {still, code(protocolViolation), other},
		"conflict":                          {still, code(serializationCode), serialization},
		"deadlock":                          {still, code(deadlock), serialization},
		"a tenant where there is one":       {cancelled, tenant.ErrNoTenant, other},
		"refused for no reason":             {still, tenantdb.ErrRefused, other},
		"anything":                          {still, errors.New("x"), other},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.in.judge(tc.err); got != tc.want {
				t.Errorf("got %s, want %s", classNames[got], classNames[tc.want])
			}
		})
	}
}
