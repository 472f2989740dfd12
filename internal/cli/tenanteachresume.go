package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

// keepEvery is the time between two writes of a resume file.
const keepEvery = 500 * time.Millisecond

// eachTask is what is done for each tenant, and where.
type eachTask struct {
	Command  []string        `json:"command"`
	Registry string          `json:"registry"` // host:port/database
	Statuses []tenant.Status `json:"statuses"`
	Tenants  []tenant.ID     `json:"tenants"` // null: all
}

// resumeFile keeps how far a run has come. It is replaced as a whole, so that it is never half written.
type resumeFile struct {
	name string // "" if nobody wants it
	kept struct {
		eachTask
		directory.Checkpoint
	}
	lost   chan struct{} // closed when the file can no longer be written
	ended  chan struct{} // closed by close
	writer sync.WaitGroup
	latest chan func() directory.Checkpoint // holds the last one that is not written
	err    error                            // the writer's
}

// openResumeFile reads the file, if it is there, and makes it, if not.
func openResumeFile(name string, task eachTask) (*resumeFile, error) {
	f := &resumeFile{name: name, lost: make(chan struct{}), ended: make(chan struct{}), latest: make(chan func() directory.Checkpoint, 1)}
	f.kept.eachTask, f.kept.Open = task, []tenant.ID{}
	if name == "" {
		return f, nil
	}
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &f.kept)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = f.write(f.kept.Checkpoint)
	case err != nil:
	case !reflect.DeepEqual(f.kept.eachTask, task):
		return nil, &config.Error{
			Setting: "--resume", Err: fmt.Errorf("%s belongs to another run: of another command, on other tenants, or another registry", name),
			Hint: "repeat the command that made it, or name another file",
		}
	}
	if err != nil {
		return nil, &config.Error{
			Setting: "--resume", Err: err,
			Hint: "name a file that such a run has written, or none that is there yet, in a folder that may be written to",
		}
	}
	f.writer.Go(f.keepWriting)
	return f, nil
}

// keep has what is done by now written soon.
func (f *resumeFile) keep(checkpoint func() directory.Checkpoint) {
	select {
	case f.latest <- checkpoint:
	default: // it is about to ask the one before, which knows as much
	}
}

func (f *resumeFile) keepWriting() {
	for {
		select {
		case checkpoint := <-f.latest:
			if f.err = f.write(checkpoint()); f.err != nil {
				close(f.lost)
				return
			}
		case <-f.ended:
			return
		}
		select {
		case <-time.After(keepEvery):
		case <-f.ended:
			return
		}
	}
}

// close writes the last state.
func (f *resumeFile) close(last directory.Checkpoint) error {
	if f.name == "" {
		return nil
	}
	close(f.ended)
	f.writer.Wait()
	if f.err == nil {
		f.err = f.write(last)
	}
	if f.err != nil {
		return fmt.Errorf("what is done could not be kept: %w", f.err)
	}
	return nil
}

// write puts a new file in the place of the old one.
func (f *resumeFile) write(c directory.Checkpoint) (err error) {
	f.kept.Checkpoint = c
	text, err := json.Marshal(f.kept)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(f.name), filepath.Base(f.name)+".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(append(text, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), f.name)
}
