package cli

import (
	"encoding/json"
	"io"
)

// print writes a result to standard output: value as JSON if that was asked for, else what text writes.
func (r *runner) print(value any, text func(w io.Writer)) error {
	if !r.json {
		text(r.Out)
		return nil
	}
	enc := json.NewEncoder(r.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}
