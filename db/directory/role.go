package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// releaseRole takes from a role what keeps it from being dropped: what it owns, and its rights, in the session's database. Large
// objects belong to no schema, so that a tenant's may be left when its schema is gone; and whoever owns one may give rights on it
// to any role whose name it knows. All this goes in batches. The caller's login is a member of the role after that.
func releaseRole(ctx context.Context, s *session, role string) error {
	if holds, err := s.q.HoldsAnything(ctx, role); err != nil || !holds {
		return err
	}
	version, err := s.q.ServerVersion(ctx)
	if err != nil {
		return err
	}
	if err := inBatch(ctx, s, joinRoleSQL(role, version)); err != nil {
		return err
	}
	for after := int64(0); ; {
		done, err := s.q.UnlinkLargeObjects(ctx, controlsql.UnlinkLargeObjectsParams{
			Role: role, After: after, MaxRows: maxPurgeObjects,
		})
		if err != nil {
			return fmt.Errorf("drop the large objects of %s: %w", role, err)
		}
		if done.Unlinked == 0 {
			break
		}
		after = done.Last
	}
	if err := revokeLargeObjects(ctx, s, role, version); err != nil {
		return fmt.Errorf("revoke the rights of %s on large objects: %w", role, err)
	}
	if err := inBatch(ctx, s, "DROP OWNED BY "+pgx.Identifier{role}.Sanitize()); err != nil {
		return fmt.Errorf("drop what %s owns: %w", role, err)
	}
	return nil
}

// joinRoleSQL makes the administrator a member of a role that it has created, with all its rights.
func joinRoleSQL(role string, version int32) string {
	options := ""
	if version >= inheritOptionVersion {
		options = " WITH INHERIT TRUE, SET TRUE"
	}
	return "GRANT " + pgx.Identifier{role}.Sanitize() + " TO CURRENT_USER" + options
}

// revokeLargeObjects takes back what other roles have given to this one. Each can only take back what it has given itself.
func revokeLargeObjects(ctx context.Context, s *session, role string, version int32) error {
	var before []controlsql.ListLargeObjectGrantsRow
	for {
		grants, err := s.q.ListLargeObjectGrants(ctx, controlsql.ListLargeObjectGrantsParams{Role: role, MaxRows: maxPurgeObjects})
		if err != nil || len(grants) == 0 {
			return err
		}
		if slices.Equal(grants, before) {
			return errors.New("they cannot be revoked")
		}
		before = grants
		byGrantor := map[string][]string{}
		for _, g := range grants {
			byGrantor[g.Grantor] = append(byGrantor[g.Grantor], fmt.Sprintf("REVOKE ALL ON LARGE OBJECT %d FROM %s CASCADE",
				g.Object, pgx.Identifier{role}.Sanitize()))
		}
		for grantor, statements := range byGrantor {
			if err := asRole(ctx, s, grantor, version, strings.Join(statements, ";\n")); err != nil {
				return err
			}
		}
	}
}

// asRole runs statements as another role, of which the administrator is a member meanwhile.
func asRole(ctx context.Context, s *session, role string, version int32, statements string) error {
	return s.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		member, err := q.IsMember(ctx, controlsql.IsMemberParams{Role: role, Login: tx.Conn().Config().User})
		if err != nil {
			return err
		}
		name := pgx.Identifier{role}.Sanitize()
		sql := setPurgeTimeout + ";\n" + joinRoleSQL(role, version) + ";\nSET LOCAL ROLE " + name + ";\n" + statements + ";\nRESET ROLE"
		if !member || version >= inheritOptionVersion { // where a membership that somebody else gave stands beside this one
			sql += ";\nREVOKE " + name + " FROM CURRENT_USER"
		}
		_, err = tx.Exec(ctx, sql)
		return err
	})
}
