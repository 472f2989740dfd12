package pgdump

import "context"

// Find is find for pg_dump, for tests that put something before the real program.
func Find(ctx context.Context, binDir string, server int) (string, error) {
	return find(ctx, programName, binDir, server)
}
