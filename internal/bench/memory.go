package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// memory is what the server processes behind some connections have for themselves, in bytes, one number for each. What they
// share, such as the buffers, does not count.
type memory []int64

func (m memory) max() int64 {
	if len(m) == 0 {
		return 0
	}
	return slices.Max(m)
}

func (m memory) sum() (total int64) {
	for _, n := range m {
		total += n
	}
	return total
}

func (m memory) mean() int64 { return m.sum() / int64(max(len(m), 1)) }

// errUnmeasured is what a kernel is to blame for that does not tell. It is no failure: the table shows a dash.
var errUnmeasured = errors.New("the kernel does not say how much memory a process has for itself")

// backendMemory measures the backends whose connections bear the given application_name, on Linux. Elsewhere, or where the
// kernel does not let us, it returns as many zeros as there are backends.
func backendMemory(ctx context.Context, admin *pgx.Conn, application string) (memory, error) {
	rows, err := admin.Query(ctx, "SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = $1", application)
	if err != nil {
		return nil, err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return nil, err
	}
	m := make(memory, 0, len(pids))
	for _, pid := range pids {
		n, err := privateMemory("/proc", pid)
		switch {
		case err == nil, errors.Is(err, errUnmeasured):
			m = append(m, n)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH): // it has ended in the meantime
		default:
			return nil, err
		}
	}
	return m, nil
}

// privateMemory reads what a process has for itself. The proportional share of anonymous memory leaves out the buffers, which
// count as private where a single process has touched them, and shares what the processes have inherited from their common
// parent.
func privateMemory(proc string, pid int) (int64, error) {
	if _, err := os.Stat(proc + "/self/smaps_rollup"); err != nil {
		return 0, errUnmeasured
	}
	path := fmt.Sprintf("%s/%d/smaps_rollup", proc, pid)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return 0, errUnmeasured
	}
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		value, found := strings.CutPrefix(lines.Text(), "Pss_Anon:")
		if !found {
			continue
		}
		kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		return kB << 10, nil
	}
	return 0, errUnmeasured
}
