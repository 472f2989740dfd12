package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// fetchable are the versions that can be fetched, by major version; the highest is for new clusters.
var fetchable = map[int]embeddedpostgres.PostgresVersion{
	15: embeddedpostgres.V15,
	16: embeddedpostgres.V16,
	17: embeddedpostgres.V17,
	18: embeddedpostgres.V18,
}

const newestFetchable = 18

// cacheFolder returns where fetched binaries are kept: with the cluster, or in the temporary folder if the cluster does not
// last or if the server's user could not reach them there.
func cacheFolder(f *folder, as account, ephemeral bool) string {
	if !ephemeral && !as.drop {
		return f.binaries()
	}
	return filepath.Join(os.TempDir(), "leasehold-postgres-"+strconv.Itoa(os.Geteuid()))
}

// A fetcher downloads PostgreSQL from a repository, which defaults to the library's, and keeps it in a cache folder.
type fetcher struct {
	cache      string
	repository string
}

// fetch downloads PostgreSQL of the given major version (0: the newest) into a folder of its own in the cache, unless usable
// says that it is there already, and returns the folder of its programs. Of ctx it sees only that it has ended before the
// download, which the library gives no way to stop.
func (f fetcher) fetch(ctx context.Context, major int, usable func(bin string) error) (string, error) {
	if major == 0 {
		major = newestFetchable
	}
	version, ok := fetchable[major]
	if !ok {
		return "", fmt.Errorf("version %d is not offered for download", major)
	}
	if err := ownFolder(f.cache); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(f.cache, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	bin := filepath.Join(f.cache, string(version), "bin")
	if usable(bin) == nil {
		return bin, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	downloadErr := f.download(version)
	if err := usable(bin); err == nil {
		return bin, nil
	} else if downloadErr == nil || !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return "", downloadErr
}

// ownFolder makes a folder that others may enter and only we may change. In the temporary folder its name can be guessed,
// so one that someone else has put there is refused.
func ownFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder of ours; remove it", dir)
	}
	return nil
}

// download has the library unpack the binaries into cache. The library has no call for that alone: its Start fetches,
// unpacks, and goes on to initdb. We give that an encoding that no server has, which ends Start right there with an error,
// so that the caller must judge by what was unpacked.
func (f fetcher) download(version embeddedpostgres.PostgresVersion) error {
	scratch, err := os.MkdirTemp(f.cache, "fetch-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	port, err := freePort()
	if err != nil {
		return err
	}
	config := embeddedpostgres.DefaultConfig().
		Version(version).
		Port(uint32(port)).
		CachePath(f.cache).
		BinariesPath(filepath.Join(f.cache, string(version))).
		RuntimePath(filepath.Join(scratch, "run")).
		DataPath(filepath.Join(scratch, "data")).
		Encoding("none").
		Logger(io.Discard)
	if f.repository != "" {
		config = config.BinaryRepositoryURL(f.repository)
	}
	server := embeddedpostgres.NewDatabase(config)
	err = server.Start()
	if err == nil {
		err = server.Stop()
	}
	removeLibraryLogs()
	runtime.KeepAlive(server) // and with it the descriptors that tell its logs
	return err
}

// removeLibraryLogs removes the log files that the library leaves in the temporary folder. Those that we hold open are ours.
func removeLibraryLogs() {
	logs, err := filepath.Glob(filepath.Join(os.TempDir(), "embedded_postgres_log*"))
	if err != nil {
		return
	}
	const descriptors = 1024
	for _, path := range logs {
		var named, held syscall.Stat_t
		if syscall.Lstat(path, &named) != nil {
			continue
		}
		for fd := range descriptors {
			if syscall.Fstat(fd, &held) == nil && held.Dev == named.Dev && held.Ino == named.Ino {
				_ = os.Remove(path)
				break
			}
		}
	}
}
