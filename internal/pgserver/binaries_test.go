package pgserver

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakePrograms puts programs into dir that do nothing but tell a version.
func fakePrograms(t *testing.T, dir string, major int, names ...string) {
	t.Helper()
	if len(names) == 0 {
		names = []string{"initdb", "postgres"}
	}
	for _, name := range names {
		writeProgram(t, filepath.Join(dir, name), fmt.Sprintf("echo '%s (PostgreSQL) %d.4'", name, major))
	}
}

func writeProgram(t *testing.T, path, script string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// have maps folders to the major version in them; "broken:" holds programs that fail, "half:" only one of them.
		have  map[string]int
		major int
		want  string // "" for none
	}{
		{"nothing", nil, 0, ""},
		{"the newest of the distribution, by number", map[string]int{"lib/15/bin": 15, "lib/9/bin": 9, "lib/17/bin": 17}, 0, "lib/17/bin"},
		{"PATH wins", map[string]int{"path": 15, "lib/17/bin": 17}, 0, "path"},
		{"pg_config wins over the distribution", map[string]int{"config": 16, "lib/17/bin": 17}, 0, "config"},
		{"PATH wins over pg_config", map[string]int{"path": 15, "config": 16}, 0, "path"},
		{"too old", map[string]int{"path": 14, "lib/14/bin": 14}, 0, ""},
		{"too old on PATH", map[string]int{"path": 14, "lib/15/bin": 15}, 0, "lib/15/bin"},
		{"only half a set", map[string]int{"half:path": 17, "half:lib/18/bin": 18, "lib/15/bin": 15}, 0, "lib/15/bin"},
		{"a set that cannot be run", map[string]int{"broken:path": 17, "lib/15/bin": 15}, 0, "lib/15/bin"},
		{"what made the folder", map[string]int{"path": 18, "lib/15/bin": 15, "lib/16/bin": 16, "lib/17/bin": 17}, 16, "lib/16/bin"},
		{"not what made the folder", map[string]int{"path": 18, "lib/17/bin": 17}, 16, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for dir, major := range test.have {
				kind, rest, found := strings.Cut(dir, ":")
				switch {
				case !found:
					fakePrograms(t, filepath.Join(root, dir), major)
				case kind == "half":
					fakePrograms(t, filepath.Join(root, rest), major, "postgres")
				default:
					fakePrograms(t, filepath.Join(root, rest), major)
					writeProgram(t, filepath.Join(root, rest, "initdb"), "exit 1")
				}
			}
			writeProgram(t, filepath.Join(root, "pg_config"), "echo "+filepath.Join(root, "config"))
			f := finder{
				path:     strings.Join([]string{"relative", "", filepath.Join(root, "none"), filepath.Join(root, "path")}, string(os.PathListSeparator)),
				pgConfig: filepath.Join(root, "pg_config"),
				globs:    []string{filepath.Join(root, "lib/*/bin"), filepath.Join(root, "none/*")},
			}
			got, err := f.find(t.Context(), test.major)
			if test.want == "" {
				if !errors.Is(err, ErrNoBinaries) {
					t.Errorf("got %v, %v, want ErrNoBinaries", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(root, test.want); got.dir != want {
				t.Errorf("got %s, want %s", got.dir, want)
			}
		})
	}
}

func TestLocateNamedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fakePrograms(t, filepath.Join(dir, "bin"), 16)
	fakePrograms(t, filepath.Join(dir, "path"), 16)
	f := finder{path: filepath.Join(dir, "path")}
	tests := []struct {
		name  string
		bin   string
		major int
		ok    bool
	}{
		{"new folder", "bin", 0, true},
		{"folder of the same version", "bin", 16, true},
		{"folder of another version", "bin", 15, false},
		{"nothing there, though there is on PATH", "none", 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := locate(t.Context(), slog.New(slog.DiscardHandler), f, fetcher{}, filepath.Join(dir, test.bin), test.major)
			if !test.ok {
				if !errors.Is(err, ErrNoBinaries) {
					t.Errorf("got %v, %v, want ErrNoBinaries", got, err)
				}
				return
			}
			if err != nil || got.dir != filepath.Join(dir, test.bin) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// repository serves one archive, whatever is asked for, and counts the requests.
func repository(t *testing.T, archive []byte) (url string, requests func() int) {
	t.Helper()
	var n int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		if archive == nil || strings.HasSuffix(r.URL.Path, ".sha256") {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(archive)
	}))
	t.Cleanup(func() {
		server.Close()
		http.DefaultClient.CloseIdleConnections() // the library uses it
	})
	return server.URL, func() int { return n }
}

func TestFetch(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	// bin/initdb and bin/postgres, which tell version 18, made with tar -cJ
	programs, err := os.ReadFile(filepath.Join("testdata", "programs.txz"))
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	archive := zip.NewWriter(&jar)
	w, err := archive.Create("programs.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(programs); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	url, requests := repository(t, jar.Bytes())
	remote := fetcher{cache: filepath.Join(t.TempDir(), "cache"), repository: url}

	var dir string
	for range 2 {
		got, err := locate(t.Context(), slog.New(slog.DiscardHandler), finder{}, remote, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got.major != 18 || (dir != "" && got.dir != dir) {
			t.Errorf("got %+v after %s", got, dir)
		}
		dir = got.dir
	}
	if got := requests(); got != 2 {
		t.Errorf("%d requests, want 2: the archive and its checksum, once", got)
	}
	assertEmpty(t, filepath.Join(remote.cache, "fetch-*"))
	assertEmpty(t, filepath.Join(tmp, "*"))
}

func TestFetchFails(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	url, _ := repository(t, nil)
	writable := t.TempDir()
	if err := os.Chmod(writable, 0o777); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		remote fetcher
		major  int
	}{
		{"not in the repository", fetcher{cache: t.TempDir(), repository: url}, 0},
		{"no network", fetcher{cache: t.TempDir(), repository: "http://127.0.0.1:1"}, 0},
		{"a version that is not offered", fetcher{cache: t.TempDir(), repository: url}, 99},
		{"a cache that others can write to", fetcher{cache: writable, repository: url}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := locate(t.Context(), slog.New(slog.DiscardHandler), finder{}, test.remote, "", test.major)
			if !errors.Is(err, ErrNoBinaries) {
				t.Fatalf("got %v, want ErrNoBinaries", err)
			}
			if text := err.Error(); !strings.Contains(text, "install PostgreSQL") || strings.Contains(text, "\n") {
				t.Errorf("not one line that says what to do: %q", text)
			}
			assertEmpty(t, filepath.Join(tmp, "*"))
		})
	}
}

// recorder is a folder of programs that write down how they are called, and then do what they should.
type recorder struct{ dir, record string }

func recordingPrograms(t *testing.T) recorder {
	t.Helper()
	as, err := unprivileged("")
	if err != nil {
		t.Fatal(err)
	}
	real, err := locate(t.Context(), slog.New(slog.DiscardHandler), newFinder(as), fetcher{}, os.Getenv(binEnv), 0)
	if err != nil {
		t.Fatal(err)
	}
	r := recorder{dir: openDir(t)}
	r.record = filepath.Join(r.dir, "record")
	if err := os.WriteFile(r.record, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := as.own(r.record); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		writeProgram(t, filepath.Join(r.dir, name), fmt.Sprintf(`{ echo %s "$@"; env; } >>%s
exec %s "$@"`, name, r.record, real.program(name)))
	}
	return r
}

func (r recorder) recorded(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(r.record)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
