package migrate

// LockKey is the key of the advisory lock that a Migrator holds in the database of a schema while it is at work on it. Whoever holds it
// keeps all Migrators out.
func LockKey(schema string) int64 { return lockKey(schema) }
