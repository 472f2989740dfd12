package pgserver

import (
	"fmt"
	"os"
	"syscall"

	"github.com/leasehold-go/leasehold/internal/daemon"
)

// An account is who the server's programs run as.
type account struct {
	uid, gid uint32
	// drop says that the programs must change to the account: we are root, which PostgreSQL refuses to run as.
	drop bool
}

// unprivileged returns who is to run the cluster in dataDir, which need not exist. For anyone but root that is the caller.
// For root it is the cluster's owner, so that a folder first used by an ordinary user keeps working, else postgres, else
// nobody.
func unprivileged(dataDir string) (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	if info, err := os.Stat(dataDir); err == nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 {
			return account{uid: owner.Uid, gid: owner.Gid, drop: true}, nil
		}
	}
	credential, err := daemon.Credential()
	if err != nil {
		return account{}, fmt.Errorf("pgserver: root cannot run PostgreSQL, and %w", err)
	}
	return account{uid: credential.Uid, gid: credential.Gid, drop: true}, nil
}

// own gives path to the account.
func (a account) own(path string) error {
	if !a.drop {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// credential is nil if the programs run as we do.
func (a account) credential() *syscall.Credential {
	if !a.drop {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}
