// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Down removes everything of the instance, and nothing else.
func (e *Engine) Down() error {
	if !exists(e.in.run) && !exists(e.in.pins) {
		return nil
	}
	lock, err := e.in.makeLock()
	if err != nil {
		return err
	}
	defer lock.Close()
	return e.remove()
}

// DownAll is Down of every instance, also of those whose records are lost or
// damaged: what is pinned is in force whatever the records say.
func DownAll() error {
	if err := CheckCapabilities(); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, dir := range []string{runRoot(), pinRoot()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(names)) {
		errs = append(errs, downNamed(name))
	}
	return errors.Join(errs...)
}

func downNamed(name string) error {
	in := instanceAt(name)
	if err := in.load(); err != nil {
		in.info = instanceInfo{}
		if !in.parseName() {
			return fmt.Errorf("%s is no instance of wfpebpf: remove it by hand", in.run)
		}
	}
	e, err := in.open()
	if err != nil {
		return err
	}
	defer e.Close()
	return e.Down()
}

func (e *Engine) remove() error {
	names, err := e.in.attached()
	err = errors.Join(err, e.detachAll(names))
	for _, m := range e.maps {
		if m.IsPinned() {
			err = errors.Join(err, m.Unpin())
		}
	}
	// what a version that we do not know has pinned goes, too
	filepath.WalkDir(e.in.pins, func(path string, d fs.DirEntry, walkErr error) error {
		if walkErr == nil && !d.IsDir() {
			err = errors.Join(err, os.Remove(path))
		}
		return nil
	})
	err = errors.Join(err, e.closeMaps())
	return errors.Join(err, os.RemoveAll(e.in.pins), os.RemoveAll(e.in.run), removeEmpty(pinRoot()), removeEmpty(runRoot()), e.openMaps())
}

// removeEmpty removes a directory that holds nothing any more. Another instance
// may be at it, too.
func removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// makeDir is MkdirAll where removeEmpty of another instance may take a parent
// away again.
func makeDir(dir string) (err error) {
	for range 10 {
		if err = os.MkdirAll(dir, 0o700); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return err
}
