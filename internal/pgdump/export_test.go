package pgdump

// Find is find, for tests that put something before the real program.
var Find = find
