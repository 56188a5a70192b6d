// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// executable returns the device and inode that the kernel knows a file by. The
// device of the file system is taken from the mount table: that of stat is
// another one on btrfs and overlayfs.
func executable(path string) (dev uint32, inode uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_MNT_ID|unix.STATX_TYPE, &st); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, 0, fmt.Errorf("%s is not a regular file", path)
	}
	major, minor := st.Dev_major, st.Dev_minor
	if st.Mask&unix.STATX_MNT_ID != 0 {
		if a, b, ok := mountDevice(st.Mnt_id); ok {
			major, minor = a, b
		}
	}
	return major<<20 | minor, st.Ino, nil
}

func mountDevice(id uint64) (major, minor uint32, ok bool) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return 0, 0, false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var got uint64
		var parent int
		if n, _ := fmt.Sscanf(s.Text(), "%d %d %d:%d", &got, &parent, &major, &minor); n == 4 && got == id {
			return major, minor, true
		}
	}
	return 0, 0, false
}

// principals is the content of the principals table: who has which number.
// missing names what does not exist on this host now.
func (n *numbers) principals() (entries map[bpf.Principal]uint32, missing []string) {
	entries = map[bpf.Principal]uint32{}
	for i, app := range n.Apps[1:] {
		if !strings.HasPrefix(app, "/") {
			continue // "System", or a Windows path that nothing here can have
		}
		dev, inode, err := executable(app)
		if err != nil {
			missing = append(missing, "app "+err.Error())
			continue
		}
		entries[bpf.Principal{Kind: bpf.PrincipalApp, Dev: dev, Id: inode}] = uint32(i + 1)
	}
	for i, uid := range n.UIDs[1:] {
		entries[bpf.Principal{Kind: bpf.PrincipalUID, Id: uint64(uid)}] = uint32(i + 1)
	}
	for i, gid := range n.GIDs[1:] {
		entries[bpf.Principal{Kind: bpf.PrincipalGID, Id: uint64(gid)}] = uint32(i + 1)
	}
	units := func(kind uint32, names []string) {
		for i, unit := range names[1:] {
			c, err := findCgroup(unit)
			if err != nil {
				missing = append(missing, err.Error())
				continue
			}
			if c.level < 1 || c.level > bpf.CgroupLevels {
				missing = append(missing, fmt.Sprintf("cgroup %s is at level %d, levels 1 to %d can be matched", c.name, c.level, bpf.CgroupLevels))
				continue
			}
			entries[bpf.Principal{Kind: kind, Id: c.id}] = uint32(i + 1)
		}
	}
	units(bpf.PrincipalService, n.Services)
	units(bpf.PrincipalPackage, n.Packages)
	return entries, missing
}
