package daemon

import (
	"os"
	"syscall"
)

func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

func handOver(dir string) (string, []*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/3", []*os.File{f}, nil // the first of ExtraFiles is descriptor 3
}
