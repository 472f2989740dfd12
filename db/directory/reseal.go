package directory

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// resealPage is how many tenants are read at a time.
const resealPage = 500

// Reseal encrypts with Config.SecretKey what the registry keeps encrypted with one of Config.OldSecretKeys, and returns how many
// secrets there were. So the key is changed without a stop:
//
//   - start all processes again with the new key as SecretKey and the old one among OldSecretKeys;
//   - call Reseal, and then SetRuntimePassword;
//   - start all processes again without the old key.
//
// Until the first step is done everywhere, a process that has the old key only cannot serve tenants that another one creates with
// a database of their own, or whose password another one changes. The error is ErrSecretKey if something was sealed with a key that is not given; what can be opened has
// been sealed anew then. Reseal may run at any time, any number of times, also beside RotatePassword.
func (d *Directory) Reseal(ctx context.Context) (int, error) {
	if err := d.cfg.validateSecretKey(); err != nil {
		return 0, err
	}
	clusters, err := d.resealClusters(ctx)
	if err != nil {
		return clusters, fmt.Errorf("directory: seal anew: %w", err)
	}
	tenants, err := d.resealTenants(ctx)
	if err != nil {
		return clusters + tenants, fmt.Errorf("directory: seal anew: %w", err)
	}
	moves, err := d.resealMoves(ctx)
	if err != nil {
		return clusters + tenants + moves, fmt.Errorf("directory: seal anew: %w", err)
	}
	return clusters + tenants + moves, nil
}

// resealMoves seals the passwords anew that tenants get by their moves.
func (d *Directory) resealMoves(ctx context.Context) (n int, failure error) {
	moves, err := d.queries.ListMoves(ctx)
	if err != nil {
		return 0, err
	}
	for _, row := range moves {
		move := row.Move
		sealed, changed, err := d.sealer.reseal(ownerOfPassword(move.TenantID), move.EncryptedPassword)
		if err != nil {
			failure = err
			continue
		}
		if !changed {
			continue
		}
		done, err := d.queries.ResealMove(ctx, controlsql.ResealMoveParams{TenantID: move.TenantID, Sealed: sealed, Before: move.EncryptedPassword})
		if err != nil {
			return n, err
		}
		n += int(done)
	}
	return n, failure
}

func (d *Directory) resealClusters(ctx context.Context) (n int, failure error) {
	rows, err := d.queries.ListClusters(ctx)
	if err != nil {
		return 0, err
	}
	for _, row := range rows {
		sealed, changed, err := d.sealer.reseal(ownerOfURL(row.Name), row.EncryptedUrl)
		if err != nil {
			failure = err
			continue
		}
		if !changed {
			continue
		}
		// If the URL was changed since it was read, whoever changed it has sealed it.
		done, err := d.queries.ResealCluster(ctx, controlsql.ResealClusterParams{
			Name: row.Name, Sealed: sealed, Before: row.EncryptedUrl,
		})
		if err != nil {
			return n, err
		}
		n += int(done)
	}
	return n, failure
}

func (d *Directory) resealTenants(ctx context.Context) (n int, failure error) {
	for after := (tenant.ID{}); ; {
		rows, err := d.queries.ListCredentials(ctx, controlsql.ListCredentialsParams{After: after, MaxRows: resealPage})
		if err != nil {
			return n, err
		}
		for _, row := range rows {
			after = row.ID
			done, err := d.resealTenant(ctx, row)
			switch {
			case sqlState(err) != "" || ctx.Err() != nil:
				return n, err
			case err != nil:
				failure = err
			}
			n += done
		}
		if len(rows) < resealPage {
			return n, failure
		}
	}
}

// setResealed writes down what was sealed anew. A move that carries the same password to another database is to have the same text.
func (d *Directory) setResealed(ctx context.Context, p controlsql.ResealCredentialParams) (done int64, err error) {
	err = pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		q := d.queries.WithTx(tx)
		if done, err = q.ResealCredential(ctx, p); done == 0 || err != nil {
			return err
		}
		_, err := q.ResealMove(ctx, controlsql.ResealMoveParams{TenantID: p.ID, Sealed: p.Sealed, Before: p.Before})
		return err
	})
	return done, err
}

// resealTenant seals both passwords of a tenant anew. It reads them again if they were changed meanwhile.
func (d *Directory) resealTenant(ctx context.Context, row controlsql.ListCredentialsRow) (n int, err error) {
	for range ownTries {
		owner := ownerOfPassword(row.ID)
		current, changed, err := d.sealer.reseal(owner, row.EncryptedPassword)
		if err != nil {
			return 0, err
		}
		next, nextChanged, err := d.sealer.reseal(owner, row.NextEncryptedPassword)
		if err != nil {
			return 0, err
		}
		if !changed && !nextChanged {
			return 0, nil
		}
		done, err := d.setResealed(ctx, controlsql.ResealCredentialParams{
			ID: row.ID, Sealed: current, NextSealed: next, Before: row.EncryptedPassword, NextBefore: row.NextEncryptedPassword,
		})
		if err != nil || done > 0 {
			return int(done), err
		}
		now, err := d.queries.GetTenant(ctx, row.ID)
		if err != nil {
			return 0, err
		}
		row.EncryptedPassword, row.NextEncryptedPassword = now.EncryptedPassword, now.NextEncryptedPassword
	}
	return 0, fmt.Errorf("tenant %s: %w", row.ID, errResealed)
}
