package tenantdb_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

func TestAServerWithoutTheFixesIsWarnedOf(t *testing.T) {
	t.Parallel()
	for version, want := range map[int]string{
		150000: "15.9 ", 150008: "15.9 ", 150009: "", 150018: "", 160004: "16.5 ", 160005: "", 170000: "17.1 ", 170001: "", 180000: "", 180004: "",
	} {
		var out bytes.Buffer
		tenantdb.WarnOfOldServer(t.Context(), slog.New(slog.NewTextHandler(&out, nil)), version)
		if got := out.String(); (got != "") != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%d: logged %q, want a word of PostgreSQL %q", version, got, want)
		}
	}
}
