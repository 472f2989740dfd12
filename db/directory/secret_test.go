package directory

import (
	"bytes"
	"errors"
	"testing"
)

func sealerOf(tb testing.TB, keys ...string) *sealer {
	tb.Helper()
	secrets := make([][]byte, len(keys))
	for i, key := range keys {
		secrets[i] = []byte(key)
	}
	s, err := newSealer(secrets...)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func mustSeal(tb testing.TB, s *sealer, owner, secret string) []byte {
	tb.Helper()
	sealed, err := s.seal(owner, []byte(secret))
	if err != nil {
		tb.Fatal(err)
	}
	return sealed
}

func TestASecretIsOpenedByItsKeyForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	sealed := mustSeal(t, sealerOf(t, "key one"), "tenant 1", "the secret")
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("the secret can be read")
	}
	if bytes.Equal(sealed, mustSeal(t, sealerOf(t, "key one"), "tenant 1", "the secret")) {
		t.Error("the same secret twice gives the same text")
	}
	for _, tc := range []struct {
		name   string
		sealer *sealer
		owner  string
		opens  bool
		wrong  bool // the key, rather than the text
	}{
		{"the key", sealerOf(t, "key one"), "tenant 1", true, false},
		{"among old keys", sealerOf(t, "key two", "key three", "key one"), "tenant 1", true, false},
		{"another owner", sealerOf(t, "key one"), "tenant 2", false, false},
		{"another key", sealerOf(t, "key two"), "tenant 1", false, true},
		{"other keys", sealerOf(t, "key two", "key three"), "tenant 1", false, true},
		{"no key", sealerOf(t), "tenant 1", false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.sealer.open(tc.owner, sealed)
			if tc.opens != (err == nil) || tc.opens != (string(got) == "the secret") {
				t.Errorf("open = %q, %v", got, err)
			}
			if errors.Is(err, ErrSecretKey) != tc.wrong {
				t.Errorf("error = %v; is it the key? want %v", err, tc.wrong)
			}
		})
	}
}

func TestAChangedSecretIsNotOpened(t *testing.T) {
	t.Parallel()
	s := sealerOf(t, "key one")
	sealed := mustSeal(t, s, "tenant 1", "the secret")
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if got, err := s.open("tenant 1", changed); err == nil {
			t.Errorf("with byte %d changed: %q", i, got)
		}
	}
	for n := range sealed {
		if got, err := s.open("tenant 1", sealed[:n]); err == nil {
			t.Errorf("cut to %d bytes: %q", n, got)
		}
	}
}

func TestResealing(t *testing.T) {
	t.Parallel()
	old, both, fresh := sealerOf(t, "key one"), sealerOf(t, "key two", "key one"), sealerOf(t, "key two")
	sealed := mustSeal(t, old, "tenant 1", "the secret")
	again, changed, err := both.reseal("tenant 1", sealed)
	if err != nil || !changed {
		t.Fatalf("reseal: changed = %v, %v", changed, err)
	}
	if got, err := fresh.open("tenant 1", again); err != nil || string(got) != "the secret" {
		t.Errorf("with the new key: %q, %v", got, err)
	}
	if same, changed, err := both.reseal("tenant 1", again); err != nil || changed || !bytes.Equal(same, again) {
		t.Errorf("a second time: changed = %v, %v", changed, err)
	}
	if nothing, changed, err := both.reseal("tenant 1", nil); err != nil || changed || nothing != nil {
		t.Errorf("nothing: %v, changed = %v, %v", nothing, changed, err)
	}
	if _, _, err := fresh.reseal("tenant 1", sealed); !errors.Is(err, ErrSecretKey) {
		t.Errorf("without the old key: error = %v, want %v", err, ErrSecretKey)
	}
	if _, err := sealerOf(t).seal("tenant 1", []byte("the secret")); !errors.Is(err, ErrSecretKey) {
		t.Errorf("sealing without a key: error = %v, want %v", err, ErrSecretKey)
	}
}
