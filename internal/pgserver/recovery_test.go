package pgserver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestKill(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	h := startHelper(t, dir, nil)
	url := h.url(t)
	exec1(t, url, `CREATE TABLE note (body text)`)
	exec1(t, url, `INSERT INTO note VALUES ('kept')`)
	h.kill(t)

	s := start(t, testConfig(dir))
	if got := s.URL(Administrator, Database); got != url {
		t.Errorf("the URL was %s and is now %s", url, got)
	}
	if got := scan[string](t, url, `SELECT body FROM note`); got != "kept" {
		t.Errorf("body = %q", got)
	}
}

// A killed process whose server lives on, as everywhere but on Linux: here the lock is let go while the server runs.
func TestLeftoverServerIsStopped(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	old, err := Start(t.Context(), testConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	exec1(t, old.URL(Administrator, Database), `CREATE TABLE note (body text)`)
	if err := old.folder.unlock(); err != nil {
		t.Fatal(err)
	}
	s := start(t, testConfig(dir))
	<-old.Done()
	if s.PID() == old.PID() {
		t.Error("the old server runs on")
	}
	if n := scan[int](t, s.URL(Administrator, Database), `SELECT count(*) FROM note`); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// After a crash of the machine postmaster.pid names a process that is gone, or one that has nothing to do with us.
func TestStaleProcessID(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	stop(t, start(t, testConfig(dir)))
	pidFile := filepath.Join(dir, "postgres", "data", "postmaster.pid")
	for name, content := range map[string]string{
		"another process": strconv.Itoa(os.Getpid()) + "\n/elsewhere\n",
		"nobody":          "999999999\n",
		"empty":           "",
		"nonsense":        "x",
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(pidFile, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			stop(t, start(t, testConfig(dir)))
		})
	}
}

func TestKillWhileTheClusterIsMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := startHelper(t, dir, nil)
	if line, err := h.stderr.ReadString('\n'); err != nil || !strings.Contains(line, "new PostgreSQL cluster") {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	h.kill(t)
	s := start(t, testConfig(dir))
	exec1(t, s.URL(Administrator, Database), `CREATE TABLE note (body text)`)
}

func TestHalfMadeClusterIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	half := filepath.Join(dir, "postgres", stagingPrefix+"1", "data")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, testConfig(dir))
	assertEmpty(t, filepath.Join(dir, "postgres", stagingPrefix+"*"))
}

// A kill between initdb and the rest leaves a cluster without the administrator: the next start makes up for it.
func TestUnfinishedProvisioning(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	s := start(t, testConfig(dir))
	exec1(t, s.URL(Superuser, "postgres"), `DROP DATABASE leasehold`)
	stop(t, s)
	s = start(t, testConfig(dir))
	exec1(t, s.URL(Administrator, Database), `SELECT`)
	exec1(t, s.URL(Superuser, "postgres"), `DROP DATABASE leasehold`)
	exec1(t, s.URL(Superuser, "postgres"), `DROP ROLE leasehold`)
	stop(t, s)
	s = start(t, testConfig(dir))
	exec1(t, s.URL(Administrator, Database), `SELECT`)
}

func TestLostPasswords(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	s := start(t, testConfig(dir))
	stop(t, s)
	state := filepath.Join(dir, "postgres", "server.json")
	kept, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), testConfig(dir)); err == nil {
		stop(t, s)
		t.Fatal("started without the passwords")
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("new passwords were made up: %v", err)
	}

	wrong := strings.ReplaceAll(string(kept), s.state.SuperuserPassword, "WRONG")
	if err := os.WriteFile(state, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), testConfig(dir)); !errors.Is(err, errPassword) {
		if err == nil {
			stop(t, s)
		}
		t.Fatalf("got %v, want %v", err, errPassword)
	}
	assertGone(t, dir)

	if err := os.WriteFile(state, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, testConfig(dir))
}

func TestEphemeral(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	env := "TMPDIR=" + tmp
	all := filepath.Join(tmp, "*")

	killed := startHelper(t, "", nil, env)
	exec1(t, killed.url(t), `CREATE TABLE note (body text)`)
	killed.kill(t)
	left, err := filepath.Glob(all)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Fatalf("after a kill there is %q, want one folder", left)
	}

	h := startHelper(t, "", nil, env)
	url := h.url(t)
	exec1(t, url, `CREATE TABLE note (body text)`)
	assertEmpty(t, left[0])
	living, err := filepath.Glob(all)
	if err != nil {
		t.Fatal(err)
	}
	if len(living) != 1 {
		t.Fatalf("there is %q, want one folder", living)
	}

	// Another start must not touch the folder of a living server.
	other := startHelper(t, "", nil, env)
	other.url(t)
	exec1(t, url, `INSERT INTO note VALUES ('still there')`)
	if _, err := os.Stat(living[0]); err != nil {
		t.Error(err)
	}
	other.stop(t)
	h.stop(t)
	assertEmpty(t, all)
}

func TestFolderOfAnotherUser(t *testing.T) {
	t.Parallel()
	credential, dir := ordinary(t)
	if credential == nil {
		// Without root's rights there is no other user's folder to be had but root's own.
		if err := checkOwner("/"); err == nil {
			t.Error("root's folder is taken for ours")
		}
		return
	}
	h := startHelper(t, dir, credential)
	h.url(t)
	h.stop(t)
	if s, err := Start(t.Context(), testConfig(dir)); err == nil {
		stop(t, s)
		t.Error("root has started another user's folder")
	}
	h = startHelper(t, dir, credential)
	h.url(t)
	h.stop(t)
}
