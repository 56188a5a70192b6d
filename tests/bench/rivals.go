// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// firewall is one way to put rules in force at a host.
type firewall struct {
	name       string
	permissive bool // it blocks nothing
	best       bool // counts where the floor names nftables' best form
	install    func(ctx context.Context, s *site, list []endpoint) error
}

const (
	noFirewall = "no firewall"
	again      = "no firewall, again"
	ours       = "wfpebpf"
)

// none is no firewall, by one of two names: beside each other they show how well
// a ratio can be told.
func none(name string) firewall {
	return firewall{name: name, permissive: true, install: func(context.Context, *site, []endpoint) error { return nil }}
}

func wfpebpf(at where) firewall {
	return firewall{name: ours, install: func(ctx context.Context, s *site, list []endpoint) error {
		p, err := endpointPolicy(at, list)
		if err != nil {
			return err
		}
		e, err := s.open()
		if err != nil {
			return err
		}
		return e.Commit(ctx, p)
	}}
}

// nftHook is a base chain.
type nftHook struct {
	family, spec, policy string
	last                 string // rule that ends the chain
}

var (
	nftInput = nftHook{"ip", "type filter hook input priority filter", "drop", ""}
	// the policy is for IP, as that of an IPPACKET layer: ARP passes
	nftIngress = nftHook{"netdev", `type filter hook ingress device "` + hostLink + `" priority filter`, "accept", "meta protocol ip drop"}
)

// nftables is the rules as nftables' user would write them: one by one, as a
// set of what is permitted, and as a verdict map of all.
func nftables(h nftHook, protocol uint8) []firewall {
	address, element, typ := "ip saddr", endpoint.address, "ipv4_addr"
	if protocol != 0 {
		address, element, typ = "ip saddr . udp dport", endpoint.addressAndPort, "ipv4_addr . inet_service"
	}
	rules := func(list []endpoint) (sets string, rules []string) {
		for _, e := range list {
			rule := "ip saddr " + e.remote.String()
			if protocol != 0 {
				rule += fmt.Sprintf(" udp dport %d", e.port)
			}
			rules = append(rules, rule+" "+e.nftVerdict())
		}
		return "", rules
	}
	set := func(list []endpoint) (string, []string) {
		return nftSet("permitted", typ, list, element), []string{address + " @permitted accept"}
	}
	verdictMap := func(list []endpoint) (string, []string) {
		var elements []string
		for _, e := range list {
			elements = append(elements, element(e)+" : "+e.nftVerdict())
		}
		return fmt.Sprintf("map endpoints { type %s : verdict; flags constant; elements = { %s }; }\n", typ, strings.Join(elements, ", ")),
			[]string{address + " vmap @endpoints"}
	}
	var list []firewall
	for _, form := range []struct {
		name string
		make func([]endpoint) (string, []string)
	}{{"rules", rules}, {"set", set}, {"verdict map", verdictMap}} {
		list = append(list, firewall{name: "nftables, " + form.name, best: true, install: func(ctx context.Context, s *site, list []endpoint) error {
			sets, rules := form.make(list)
			if h.last != "" {
				rules = append(rules, h.last)
			}
			text := fmt.Sprintf("table %s bench {\n%schain c { %s; policy %s;\n%s\n}\n}\n", h.family, sets, h.spec, h.policy, strings.Join(rules, "\n"))
			return s.feed(ctx, text, "nft", "-f", "-")
		}})
	}
	return list
}

func nftSet(name, typ string, list []endpoint, element func(endpoint) string) string {
	var elements []string
	for _, e := range list {
		if !e.block {
			elements = append(elements, element(e))
		}
	}
	return fmt.Sprintf("set %s { type %s; flags constant; elements = { %s }; }\n", name, typ, strings.Join(elements, ", "))
}

func (e endpoint) address() string        { return e.remote.String() }
func (e endpoint) addressAndPort() string { return fmt.Sprintf("%s . %d", e.remote, e.port) }

func (e endpoint) nftVerdict() string {
	if e.block {
		return "drop"
	}
	return "accept"
}

// conntrack is nftables as it is advised for a host: what belongs to a
// connection passes, and a new one is looked up in a set, its best form.
func conntrack() firewall {
	return firewall{name: "nftables, conntrack and set", best: true, install: func(ctx context.Context, s *site, list []endpoint) error {
		text := "table ip bench {\n" + nftSet("permitted", "ipv4_addr . inet_service", list, endpoint.addressAndPort)
		for hook, address := range map[string]string{"input": "ip saddr", "output": "ip daddr"} {
			text += fmt.Sprintf("chain %s { type filter hook %s priority filter; policy drop;\nct state established,related accept\n%s . tcp dport @permitted accept\n}\n", hook, hook, address)
		}
		return s.feed(ctx, text+"}\n", "nft", "-f", "-")
	}}
}

// iptables is the rules in the INPUT chain, by the variant that is installed.
func iptables(protocol uint8, version string) firewall {
	return firewall{name: version, install: func(ctx context.Context, s *site, list []endpoint) error {
		var b strings.Builder
		b.WriteString("*filter\n:INPUT DROP [0:0]\n")
		for _, e := range list {
			fmt.Fprintf(&b, "-A INPUT -s %s", e.remote)
			if protocol != 0 {
				fmt.Fprintf(&b, " -p udp --dport %d", e.port)
			}
			target := "ACCEPT"
			if e.block {
				target = "DROP"
			}
			fmt.Fprintf(&b, " -j %s\n", target)
		}
		b.WriteString("COMMIT\n")
		return s.feed(ctx, b.String(), "iptables-restore")
	}}
}

// version is how a tool names itself, or why it cannot be measured.
func version(ctx context.Context, tool string) (string, error) {
	if _, err := exec.LookPath(tool); err != nil {
		return "", fmt.Errorf("%s is not installed", tool)
	}
	out, err := exec.CommandContext(ctx, tool, "--version").CombinedOutput()
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", tool, err, first)
	}
	return first, nil
}
