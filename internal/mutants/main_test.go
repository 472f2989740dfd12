package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The faults follow the code: each one's place stands there exactly once, so that none is silently left out.
func TestEachFaultHasItsPlace(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	if len(mutants) < 30 {
		t.Errorf("%d faults; want at least 30", len(mutants))
	}
	names := make(map[string]bool)
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("two faults are called %q", m.name)
		}
		names[m.name] = true
		description, err := m.overlay(t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		if _, err := os.Stat(description); err != nil {
			t.Error(err)
		}
	}
	for name := range killers {
		if !names[name] {
			t.Errorf("killers.go speaks of %q, which is no fault", name)
		}
	}
}
