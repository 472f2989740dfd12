package cli

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// progress shows work on many tenants on standard error: a bar on a terminal, else a line for each tenant that changed or
// failed.
type progress struct {
	w      io.Writer
	words  words
	bars   *mpb.Progress // nil without a terminal
	bar    *mpb.Bar
	failed atomic.Int64
}

func (r *runner) newProgress(total int, words words) *progress {
	p := &progress{w: r.Err, words: words}
	file, ok := r.Err.(*os.File)
	if !ok || total == 0 || !term.IsTerminal(int(file.Fd())) {
		return p
	}
	p.bars = mpb.New(mpb.WithOutput(file), mpb.WithWidth(40))
	p.bar = p.bars.AddBar(int64(total),
		mpb.PrependDecorators(decor.CountersNoUnit("tenants: %d / %d ")),
		mpb.AppendDecorators(
			decor.AverageSpeed(0, "%.0f/s "),
			decor.AverageETA(decor.ET_STYLE_GO),
			decor.Any(func(decor.Statistics) string { return p.failures() }),
		),
	)
	return p
}

// failures is what the bar shows of them.
func (p *progress) failures() string {
	if n := p.failed.Load(); n > 0 {
		return fmt.Sprintf("  %d failed", n)
	}
	return ""
}

// done notes one finished tenant. It is called by one goroutine at a time.
func (p *progress) done(res migrate.Result) {
	if p.bar != nil {
		if res.Err != nil {
			p.failed.Add(1)
		}
		p.bar.Increment()
		return
	}
	switch {
	case res.Err != nil:
		before := ""
		if n := len(res.Applied); n > 0 {
			before = fmt.Sprintf(", after %s", res.Applied[n-1])
		}
		_, _ = fmt.Fprintf(p.w, "%s: failed%s\n", res.Target, before) // the cause stands in the report
	case len(res.Applied) > 0:
		_, _ = fmt.Fprintf(p.w, p.words.each, res.Target, len(res.Applied), res.Applied[len(res.Applied)-1])
	}
}

// stop ends the bar, wherever it is.
func (p *progress) stop() {
	if p.bar != nil {
		p.bar.Abort(false)
		p.bars.Wait()
	}
}
