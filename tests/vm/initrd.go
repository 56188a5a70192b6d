// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// modules are what Debian builds as modules and tests need; whatever they
// depend on is added, and a name that is built in is passed over.
var modules = []string{"veth", "dummy", "bridge", "sch_ingress", "sch_tbf", "cls_bpf"}

// initScript is the first process. The program's output goes to the second
// serial line, so that the kernel's messages do not get into it.
const initScript = `#!/bin/busybox sh
export PATH=/bin HOME=/root TMPDIR=/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
for m in $(cat /modules/order); do insmod /modules/$m; done
ip link set lo up
hostname vm
[ ! -x /first ] || exec /first /rest
. /rest
`

// restScript is what follows once the machine is set up.
const restScript = `#!/bin/busybox sh
stty -F /dev/ttyS1 -opost
/run-program </dev/null >/dev/ttyS1 2>&1
status=$?
printf '%s%d\n' "$(cat /status-mark)" $status >/dev/ttyS1
sync
reboot -f
`

// writeInitrd makes the file system that a machine starts with.
func writeInitrd(path, root, busybox string, more map[string]string, program string, args []string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := &cpioWriter{w: z}
	for _, dir := range []string{"bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp"} {
		w.add(dir, fs.ModeDir|0o755, nil)
	}
	names, err := addModules(w, root)
	if err != nil {
		return err
	}
	files := map[string]string{"bin/busybox": busybox, "program": program}
	maps.Copy(files, more)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		w.add(name, 0o755, data)
	}
	run := "#!/bin/busybox sh\nexec /program"
	for _, arg := range args {
		run += " '" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	w.add("init", 0o755, []byte(initScript))
	w.add("rest", 0o755, []byte(restScript))
	w.add("run-program", 0o755, []byte(run+"\n"))
	w.add("status-mark", 0o644, []byte(statusMark))
	w.add("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	w.add("etc/group", 0o644, []byte("root:x:0:\n"))
	w.add("modules/order", 0o644, []byte(strings.Join(names, "\n")))
	return errors.Join(w.close(), z.Close(), f.Close())
}

// addModules puts modules and what they depend on into the archive and returns
// the order to load them in.
func addModules(w *cpioWriter, root string) ([]string, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ext, ok := strings.Cut(d.Name(), ".ko"); ok && (ext == "" || ext == ".xz") {
			paths[strings.ReplaceAll(name, "-", "_")] = path
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var order []string
	var add func(name string) error
	add = func(name string) error {
		path := paths[name]
		if path == "" || slices.Contains(order, name) {
			return nil
		}
		data, err := readModule(path)
		if err != nil {
			return err
		}
		depends, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		order = append(order, name)
		w.add("modules/"+name, 0o644, data)
		return nil
	}
	for _, name := range modules {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// readModule reads a module, which some releases compress.
func readModule(path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	data, err := exec.Command("xz", "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("xz -dc %s (package xz-utils): %w", path, err)
	}
	return data, nil
}

// moduleDepends reads the names of the modules that one needs out of it.
func moduleDepends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// isStatic reports whether a program runs without a dynamic linker.
func isStatic(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}

// cpioWriter writes the archive format that kernels unpack, "newc". The first
// error stays.
type cpioWriter struct {
	w    io.Writer
	size int
	next int // inode number
	err  error
}

func (c *cpioWriter) write(data []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(data)
		c.size += len(data)
	}
}

// pad fills up to a multiple of four bytes.
func (c *cpioWriter) pad() { c.write(make([]byte, (4-c.size%4)%4)) }

func (c *cpioWriter) add(name string, mode fs.FileMode, data []byte) {
	const regular, directory = 0o100000, 0o040000
	bits, links := uint32(mode.Perm())|regular, 1
	if mode.IsDir() {
		bits, links = uint32(mode.Perm())|directory, 2
	}
	c.next++
	// Magic; inode, mode, uid, gid, links, mtime, size, device and special
	// device numbers, length of the name with its NUL, checksum.
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.next, bits, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0))
	c.write(append([]byte(name), 0))
	c.pad()
	c.write(data)
	c.pad()
}

func (c *cpioWriter) close() error {
	c.add("TRAILER!!!", 0, nil)
	return c.err
}
