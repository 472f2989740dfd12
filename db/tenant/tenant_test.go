package tenant_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// The text form is that of RFC 9562, as another implementation writes it.
func TestIDTextForm(t *testing.T) {
	t.Parallel()
	ids := []uuid.UUID{uuid.Nil, uuid.Max}
	for range 1000 {
		id, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id, uuid.New())
	}
	for _, want := range ids {
		id := tenant.ID(want)
		if got := id.String(); got != want.String() {
			t.Fatalf("String: got %s, want %s", got, want)
		}
		for _, text := range []string{want.String(), strings.ToUpper(want.String())} {
			if got, err := tenant.ParseID(text); err != nil || got != id {
				t.Fatalf("ParseID(%s): got %s, %v", text, got, err)
			}
		}
		doc, err := json.Marshal(id)
		if err != nil || string(doc) != `"`+want.String()+`"` {
			t.Fatalf("Marshal: got %s, %v", doc, err)
		}
		var got tenant.ID
		if err := json.Unmarshal(doc, &got); err != nil || got != id {
			t.Fatalf("Unmarshal(%s): got %s, %v", doc, got, err)
		}
		if id.IsZero() != (want == uuid.Nil) {
			t.Fatalf("%s: IsZero is %v", id, id.IsZero())
		}
	}
}

// idTable holds strings that are no ID. Some libraries read the first few. It is also the seed of FuzzParseID.
var idTable = []string{
	"{0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11}",
	"urn:uuid:0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11",
	"0198c5f07d1e7cc29f0a5b1f6f0f4a11",
	"0198c5f07d1e-7cc2-9f0a-5b1f6f0f4a11-",
	"0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a1",
	"0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a111",
	"0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a1g",
	"0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a1-",
	"0198c5f0_7d1e_7cc2_9f0a_5b1f6f0f4a11",
	" 198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11",
	"0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a\u00e4",
	"acme",
	"",
}

func TestParseIDRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range idTable {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			if id, err := tenant.ParseID(text); err == nil || !id.IsZero() {
				t.Errorf("got %s, %v; want an error and the zero ID", id, err)
			}
			id := tenant.ID{1}
			if err := id.UnmarshalText([]byte(text)); err == nil {
				t.Errorf("UnmarshalText: got %s, want an error", id)
			}
		})
	}
}

// What ParseID accepts is what another implementation reads from 36 characters, and has one text form.
func FuzzParseID(f *testing.F) {
	f.Add("0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11")
	f.Add("0198C5F0-7D1E-7CC2-9F0A-5B1F6F0F4A11")
	for _, text := range idTable {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := tenant.ParseID(text)
		want, wantErr := uuid.Parse(text)
		if accept := wantErr == nil && len(text) == 36; accept != (err == nil) || accept && id != tenant.ID(want) {
			t.Errorf("ParseID(%q): got %s, %v; want %s, %v", text, id, err, want, wantErr)
		}
		if err == nil && id.String() != strings.ToLower(text) {
			t.Errorf("ParseID(%q): written back as %s", text, id)
		}
	})
}
