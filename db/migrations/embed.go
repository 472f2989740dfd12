// Package migrations embeds the dbmate migration files: those of the registry and those of every tenant.
package migrations

import "embed"

// FS holds the folders "control" and "tenant", as they stand beside this file.
//
//go:embed control/*.sql tenant/*.sql
var FS embed.FS
