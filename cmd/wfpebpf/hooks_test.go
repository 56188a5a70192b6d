// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/wfpebpf/wfpebpf/loader"
)

// A policy that uses two layers has their hooks and no others: what is not used costs
// traffic nothing. `show hooks` says so, and the programs that the kernel has at the link
// are those.
func TestLivePayForUse(t *testing.T) {
	l := newLab(t)
	for _, row := range []struct {
		name, layers string
		want         []string // hook, target, layers
	}{
		{"packets and transport", "[INBOUND_IPPACKET_V4, OUTBOUND_TRANSPORT_V6]", []string{
			"tc_ingress h0 INBOUND_IPPACKET_V4", "tc_ingress lo INBOUND_IPPACKET_V4", "local_out6 NETNS OUTBOUND_TRANSPORT_V6",
		}},
		{"frames and forwarding", "[INBOUND_MAC_FRAME_NATIVE, IPFORWARD_V4]", []string{
			"xdp h0 INBOUND_MAC_FRAME_NATIVE", "forward4 NETNS IPFORWARD_V4",
		}},
		{"connects", "[ALE_AUTH_CONNECT_V4]", []string{ // an IPv6 socket connects to mapped addresses
			"sock_create CGROUP ALE_AUTH_CONNECT_V4", "connect4 CGROUP ALE_AUTH_CONNECT_V4", "connect6 CGROUP ALE_AUTH_CONNECT_V4",
			"sendmsg4 CGROUP ALE_AUTH_CONNECT_V4", "sendmsg6 CGROUP ALE_AUTH_CONNECT_V4",
			"skb_egress CGROUP ALE_AUTH_CONNECT_V4", "skb_ingress CGROUP ALE_AUTH_CONNECT_V4",
		}},
		{"nothing", "", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			policy := "wfpebpf: 1\nfilters: []\n"
			if row.layers != "" {
				policy = "wfpebpf: 1\nfilters:\n  - {name: Permit it, layer: " + row.layers + ", action: PERMIT}\n"
			}
			l.must("apply", write(t, "policy.yaml", policy))
			var hooks []loader.HookRow
			decode(t, l.must("show", "hooks", "--json"), &hooks)
			var got []string
			for _, h := range hooks {
				target := strings.NewReplacer(l.hostNS.Name, "NETNS", l.cgroup.Rel, "CGROUP").Replace(h.Target)
				got = append(got, strings.Join(append([]string{h.Hook, target}, h.Layers...), " "))
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("hooks %q, want %q", got, row.want)
			}
			if n, want := l.programsAtLink(), countOf(row.want, " h0 "); n != want {
				t.Errorf("the kernel runs %d programs at the link, want %d", n, want)
			}
			if n, want := l.programsAtCgroup(), countOf(row.want, " CGROUP "); n != want {
				t.Errorf("the kernel runs %d programs at the cgroup, want %d", n, want)
			}
		})
	}
}

// programsAtLink counts what runs for each packet of h0.
func (l *lab) programsAtLink() (n int) {
	l.t.Helper()
	err := l.hostNS.Do(func() error {
		h0, err := netlink.LinkByName("h0")
		if err != nil {
			return err
		}
		if h0.Attrs().Xdp != nil && h0.Attrs().Xdp.Attached {
			n++
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			got, err := link.QueryPrograms(link.QueryOptions{Target: h0.Attrs().Index, Attach: at})
			if err != nil {
				return err
			}
			n += len(got.Programs)
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// programsAtCgroup counts what runs for the sockets of the cgroup.
func (l *lab) programsAtCgroup() (n int) {
	l.t.Helper()
	dir, err := os.Open(l.cgroup.Path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer dir.Close()
	for _, at := range []ebpf.AttachType{
		ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetSockCreate, ebpf.AttachCgroupInetSockRelease,
		ebpf.AttachCGroupSockOps, ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind, ebpf.AttachCGroupInet4PostBind,
		ebpf.AttachCGroupInet6PostBind, ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername, ebpf.AttachCgroupInet4GetSockname,
		ebpf.AttachCgroupInet6GetSockname, ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
	} {
		got, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: at})
		if err != nil {
			l.t.Fatalf("%s: %v", at, err)
		}
		n += len(got.Programs)
	}
	return n
}

func countOf(rows []string, part string) (n int) {
	for _, r := range rows {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}
