package directory

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// wish is where a new tenant is to live.
type wish struct {
	cluster  string          // "" for the one with most room
	strategy tenant.Strategy // "" for the cluster's own
	passed   []string        // clusters that could not be reached
	stays    bool            // the tenant lives on the cluster already, and takes no room
}

// choose finds the cluster and the strategy for a new tenant. They hold until the transaction of q ends, which has to add the
// tenant.
func (d *Directory) choose(ctx context.Context, q *controlsql.Queries, w wish) (controlsql.Cluster, tenant.Strategy, error) {
	var none controlsql.Cluster
	candidates, err := q.ListClusters(ctx)
	if err != nil {
		return none, "", err
	}
	if w.cluster != "" {
		candidates = slices.DeleteFunc(candidates, func(c controlsql.Cluster) bool { return c.Name != w.cluster })
		if len(candidates) == 0 {
			return none, "", fmt.Errorf("%w: %q", ErrNoCluster, w.cluster)
		}
		if err := checkCitusStrategy(ClusterKind(candidates[0].Kind), w.strategy); err != nil {
			return none, "", err
		}
		if candidates[0].Draining && !w.stays {
			return none, "", fmt.Errorf("%w: the cluster %q is draining", ErrNoRoom, w.cluster)
		}
	}
	candidates = slices.DeleteFunc(candidates, func(c controlsql.Cluster) bool {
		return c.Draining && !w.stays || slices.Contains(w.passed, c.Name) || checkCitusStrategy(ClusterKind(c.Kind), w.strategy) != nil
	})
	if !w.stays && (len(candidates) > 1 || slices.ContainsFunc(candidates, limited)) {
		if candidates, err = withRoom(ctx, q, candidates); err != nil {
			return none, "", err
		}
	}
	if len(candidates) == 0 {
		return none, "", ErrNoRoom
	}
	chosen := candidates[0]
	for _, c := range candidates {
		if !d.administrators.avoided(c.Name) {
			chosen = c
			break
		}
	}
	if w.strategy == "" {
		w.strategy = chosen.Strategy
	}
	return chosen, w.strategy, nil
}

// withRoom returns the clusters that are not full, the emptiest first. All who ask take turns, so that no cluster is overfilled.
func withRoom(ctx context.Context, q *controlsql.Queries, clusters []controlsql.Cluster) ([]controlsql.Cluster, error) {
	if err := q.LockTransaction(ctx, placementLock); err != nil {
		return nil, err
	}
	living, err := countLiving(ctx, q)
	if err != nil {
		return nil, err
	}
	clusters = slices.DeleteFunc(clusters, func(c controlsql.Cluster) bool {
		return limited(c) && living[c.Name] >= int64(*c.MaxTenants)
	})
	// Shares can be compared only if all have a bound.
	byShare := !slices.ContainsFunc(clusters, func(c controlsql.Cluster) bool { return !limited(c) })
	slices.SortStableFunc(clusters, func(a, b controlsql.Cluster) int {
		x, y := living[a.Name], living[b.Name]
		if byShare {
			x, y = x*int64(*b.MaxTenants), y*int64(*a.MaxTenants)
		}
		return cmp.Compare(x, y)
	})
	return clusters, nil
}

func limited(c controlsql.Cluster) bool { return c.MaxTenants != nil }

// countLiving counts the living tenants of each cluster that has any.
func countLiving(ctx context.Context, q *controlsql.Queries) (map[string]int64, error) {
	rows, err := q.CountLivingByCluster(ctx)
	if err != nil {
		return nil, err
	}
	living := make(map[string]int64, len(rows))
	for _, row := range rows {
		living[row.Cluster] = row.Tenants
	}
	return living, nil
}

// place is where a new tenant is put: the columns of its row.
type place struct {
	tenant.Placement
	loginNo  int32
	password []byte // sealed; of a database of its own
}

// findPlace chooses a place under the given names. All creations take turns here, and only here.
func (d *Directory) findPlace(ctx context.Context, q *controlsql.Queries, w wish, id tenant.ID, slug tenant.Slug,
) (p place, err error) {
	cluster, strategy, err := d.choose(ctx, q, w)
	if err != nil {
		return p, err
	}
	if err := q.LockTransaction(ctx, reservationLock); err != nil {
		return p, err
	}
	database := d.cfg.ConnConfig.Database
	if cluster.DatabaseName != nil {
		database = *cluster.DatabaseName
	}
	p.Placement = tenant.NewPlacement(id, slug, cluster.Name, database)
	if strategy == tenant.SchemaStrategy {
		p.loginNo, err = q.ChooseLogin(ctx, controlsql.ChooseLoginParams{
			Cluster: cluster.Name, TenantsPerLogin: int64(d.cfg.TenantsPerLogin),
		})
	} else {
		p.Placement = p.OwnDatabase(slug, cluster.Name)
		p.password, err = d.sealer.seal(ownerOfPassword(id), newPassword())
	}
	if err != nil {
		return p, err
	}
	return p, p.Validate()
}
