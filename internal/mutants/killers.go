package main

// killers are the tests that noticed each fault when all were last run. They are run first. A fault that is not listed, or whose
// test does not notice it any more, is given to all tests.
var killers = map[string]string{
	"statements are keyed by SQL alone":           "TestEachTenantHasItsOwnNamedStatements",
	"a batch's statements are keyed by SQL alone": "TestEachTenantHasItsOwnNamedStatements",
}
