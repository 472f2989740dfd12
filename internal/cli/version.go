package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
)

// versionCmd is leasehold version.
type versionCmd struct{}

// versionView is what version prints.
type versionView struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

// Run prints the version that the Go toolchain recorded in the program.
func (versionCmd) Run(r *runner) error {
	v := versionView{Version: "(devel)", Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return r.print(v, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, strings.Join(strings.Fields("leasehold "+v.Version+" "+v.Revision+" ("+v.Go+")"), " "))
	})
}
