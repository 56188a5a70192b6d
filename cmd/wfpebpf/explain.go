// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
)

// question is what explain was asked.
type question struct {
	target                                     loader.Target
	mapFile                                    string
	layer, in, out, forward, listen, from, to  string
	program, user, unit, iface, outIface, port string
	live, windows, json, reauthorize           bool
}

func explainCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "explain FILE... {--layer L FIELD=VALUE... | {--in|--out|--forward} PROTO --from A:P --to A:P | --listen PROTO --to A:P}",
		Short: "Say what a policy does with traffic, and why",
		Long: `Says what a policy does with traffic: the verdict, the filter whose action became
final, what each sublayer came to, and which further fields would change it. It
reads files only and needs no root.

With --layer it judges one layer with the values given: FLAGS not given is 0,
fields that have one value here have it, all others are EMPTY. Values are written
as in a policy file; ALE_USER_ID may be given several times (uid:1000, gid:10,
unit:NAME) and makes one token. --iface and the other flags describe a
connection instead, which is judged at each layer that it passes. Without --iface
the fields of the link stay EMPTY, except for loopback traffic. Of ICMP the port of
the local address is the type, and that of the remote one the code. With --forward it
is a packet that the host passes on: it comes in by --iface and goes on by --out-iface.
Where --iface is a bridge, --port says by which of its ports the traffic crosses it.
With --listen it is a socket that is bound to an address, 0.0.0.0 and [::] for any, and,
if it is TCP, begins to listen.
With --reauthorize it is the next packet of a connection that was open when the filters
of its layer changed.

It judges what would be enforced here. --as-windows includes filters that are
refused here, and takes callouts that are not provided to let the traffic pass.
--live judges the policy in force instead, by the links, services and zones that
it was applied with, and asks the kernel, too: the two must agree. Files given
beside it are compared with what is in force.`,
		Example: `  wfpebpf explain policy.yaml --out tcp --from 10.0.0.2:50000 --to 10.0.0.1:445
  wfpebpf explain wfpstate.xml --map map.yaml --in tcp --from 192.0.2.9:40000 --to 192.0.2.1:3389 --iface eth0
  wfpebpf explain policy.yaml --forward udp --from 192.0.2.9 --to 198.51.100.1 --iface eth0 --out-iface eth1
  wfpebpf explain policy.yaml --listen tcp --to 0.0.0.0:23 --program /usr/sbin/in.telnetd
  wfpebpf explain policy.yaml --layer ALE_AUTH_CONNECT_V4 IP_REMOTE_PORT=445 IP_PROTOCOL=tcp
  wfpebpf explain --live --in tcp --from 192.0.2.9:40000 --to 192.0.2.1:22 --json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return q.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&q.layer, "layer", "", "judge at this layer, with the values given as FIELD=VALUE")
	f.StringVar(&q.in, "in", "", "judge inbound traffic of this protocol (tcp, udp, icmp, icmpv6, a number)")
	f.StringVar(&q.out, "out", "", "judge outbound traffic of this protocol")
	f.StringVar(&q.forward, "forward", "", "judge traffic of this protocol that the host passes on")
	f.StringVar(&q.listen, "listen", "", "judge a socket of this protocol, tcp or udp, that is bound and listens")
	f.StringVar(&q.from, "from", "", "source address and port")
	f.StringVar(&q.to, "to", "", "destination address and port")
	f.StringVar(&q.program, "program", "", "path of the executable that has the socket")
	f.StringVar(&q.user, "user", "", "its user: a name, a uid, uid:N or gid:N")
	f.StringVar(&q.unit, "unit", "", "its systemd unit")
	f.StringVar(&q.iface, "iface", "", "link that the traffic goes over; with --forward, that it comes in by")
	f.StringVar(&q.port, "port", "", "port by which the traffic crosses the bridge that --iface names")
	f.BoolVar(&q.reauthorize, "reauthorize", false, "judge a flow that was open when the policy changed")
	f.StringVar(&q.outIface, "out-iface", "", "link that forwarded traffic goes on by")
	f.BoolVar(&q.live, "live", false, "ask the kernel, too, about the policy in force")
	f.BoolVar(&q.windows, "as-windows", false, "judge as on Windows: include what is refused here")
	mapFlag(cmd, &q.mapFile)
	targetFlags(cmd, &q.target)
	jsonFlag(cmd, &q.json)
	cmd.MarkFlagsOneRequired("layer", "in", "out", "forward", "listen")
	cmd.MarkFlagsMutuallyExclusive("layer", "in", "out", "forward", "listen")
	cmd.MarkFlagsMutuallyExclusive("listen", "from")
	cmd.MarkFlagsMutuallyExclusive("live", "as-windows")
	complete(cmd, "layer", completeLayers)
	complete(cmd, "iface", completeLinks)
	complete(cmd, "out-iface", completeLinks)
	complete(cmd, "port", completeLinks)
	for _, flag := range []string{"in", "out", "forward", "listen"} {
		complete(cmd, flag, func(*cobra.Command) []string { return []string{"tcp", "udp"} })
	}
	cmd.ValidArgsFunction = completeFields
	return cmd
}

// completeFields offers the fields of the layer, beside file names.
func completeFields(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	l := layermap.ByName(cmd.Flag("layer").Value.String())
	if l == nil || word == "" {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var keys []string
	for _, f := range l.Fields {
		keys = append(keys, f.Key+"=")
	}
	if keys = withPrefix(keys, word); len(keys) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return keys, cobra.ShellCompDirectiveNoSpace
}

// split tells FIELD=VALUE from files. A file may have such a name, too; a field
// goes first, since ./NAME names the file.
func split(args []string) (files, values []string) {
	for _, a := range args {
		key, _, assigned := strings.Cut(a, "=")
		_, missing := os.Stat(a)
		if assigned && (layermap.KnownKey(layermap.CanonicalKey(key)) || missing != nil && !strings.ContainsRune(key, '/')) {
			values = append(values, a)
		} else {
			files = append(files, a)
		}
	}
	return files, values
}

func (q *question) run(cmd *cobra.Command, args []string) error {
	files, values := split(args)
	switch {
	case len(files) == 0 && !q.live:
		return usagef("a policy file is needed")
	case q.layer == "" && len(values) > 0:
		return usagef("%s goes with --layer", values[0])
	case q.reauthorize && q.in == "" && q.out == "":
		return usagef("--reauthorize goes with --in or --out")
	case q.forward == "" && q.outIface != "":
		return usagef("--out-iface goes with --forward")
	case q.port != "" && (q.iface == "" || q.in == "" && q.out == ""):
		return usagef("--port goes with --iface, which names a bridge, and with --in or --out")
	case q.forward != "" && (q.program != "" || q.user != "" || q.unit != ""):
		return usagef("--program, --user and --unit are of a socket of this host, and a forwarded packet has none")
	}
	var layer *layermap.Layer
	if q.layer != "" {
		var err error
		if layer, err = layerNamed(q.layer); err != nil {
			return err
		}
	}
	p, m, err := loadPolicy(cmd.ErrOrStderr(), files, q.mapFile)
	if err != nil {
		return err
	}
	ask := func(p *policy.Policy, store *filter.Store) ([]explain.Answer, error) {
		return q.ask(p, m, store, layer, values)
	}
	var answers []explain.Answer
	switch {
	case q.windows:
		store, left := p.WindowsStore()
		if len(left) > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "wfpebpf: warning: the answer leaves out %d filters that cannot be represented here, the first is %q (%d)\n",
				len(left), clip(left[0].Name), left[0].ID)
		}
		answers, err = ask(p, store)
	case q.live:
		answers, err = q.askLive(p, len(files) > 0, ask)
	default:
		answers, err = ask(p, p.Store)
	}
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	switch {
	case q.json && layer != nil:
		err = writeJSON(out, answers[0])
	case q.json:
		err = writeJSON(out, answers)
	default:
		err = explain.WriteText(out, answers)
	}
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.Live != nil && !a.Live.Agrees {
			return errors.New("the kernel and the evaluator differ at " + a.Layer + ": this is a bug, please report it")
		}
	}
	return nil
}

// ask asks one policy; store holds the filters that count.
func (q *question) ask(p *policy.Policy, m *policy.Map, store *filter.Store, layer *layermap.Layer, values []string) ([]explain.Answer, error) {
	if layer != nil {
		v, err := explain.Values(p, m, layer, values)
		if err != nil {
			return nil, usageError{err}
		}
		return []explain.Answer{explain.Layer(store, layer, v, q.windows)}, nil
	}
	t, err := q.tuple(p, m)
	if err != nil {
		return nil, usageError{err}
	}
	return t.Explain(p, store, q.windows), nil
}

// askLive asks the policy in force and the kernel. Where files are given, too,
// it notes what they would change.
func (q *question) askLive(files *policy.Policy, given bool, ask func(*policy.Policy, *filter.Store) ([]explain.Answer, error)) ([]explain.Answer, error) {
	if err := loader.CheckCapabilities(); err != nil {
		return nil, err
	}
	engine, err := loader.Find(q.target)
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	// The only instance may be one that was not named: links are its own.
	q.target = engine.Target()
	inForce, err := engine.Policy()
	if err != nil {
		return nil, fmt.Errorf("reading the policy in force: %w; apply it again", err)
	}
	answers, err := ask(inForce, inForce.Store)
	if err != nil {
		return nil, err
	}
	if err := compare(engine, answers); err != nil || !given {
		return answers, err
	}
	would, err := ask(files, files.Store)
	if err != nil {
		return nil, err
	}
	for i := range answers {
		if a, b := &answers[i], &would[i]; a.Verdict != b.Verdict || a.FilterName != b.FilterName {
			a.Notes = append(a.Notes, fmt.Sprintf("the files given are not in force: they say %s, filter %q", b.Verdict, b.FilterName))
		}
	}
	return answers, nil
}

// compare asks the kernel what the evaluator was asked.
func compare(engine *loader.Engine, answers []explain.Answer) error {
	for i := range answers {
		layer, values := answers[i].Question()
		if !layermap.ByID(layer).Hook().Live {
			continue
		}
		verdicts, err := engine.Judge(layer, []filter.Values{values})
		if err != nil {
			return err
		}
		answers[i].Compare(verdicts[0].Action, verdicts[0].Filter)
	}
	return nil
}

// tuple reads the flags that describe a connection.
func (q *question) tuple(p *policy.Policy, m *policy.Map) (*explain.Tuple, error) {
	t := &explain.Tuple{
		Outbound: q.out != "", Forwarded: q.forward != "", Listening: q.listen != "", Reauthorized: q.reauthorize, Unit: q.unit,
		Link: explain.Link{Name: q.iface}, OutLink: explain.Link{Name: q.outIface}, Port: explain.Link{Name: q.port},
	}
	name := q.in + q.out + q.forward + q.listen
	connect := layermap.ByID(layermap.ALEAuthConnectV4)
	field := func(key string, texts ...string) (filter.Value, error) {
		var assignments []string
		for _, text := range texts {
			assignments = append(assignments, key+"="+text)
		}
		v, err := explain.Values(p, m, connect, assignments)
		if err != nil {
			return filter.Value{}, err
		}
		return v[connect.FieldIndex(key)], nil
	}
	protocol, err := field("IP_PROTOCOL", name)
	if err != nil {
		return nil, fmt.Errorf("%q is no protocol: tcp, udp, icmp, icmpv6 or a number", name)
	}
	t.Protocol = uint8(protocol.Num)
	from, err := endpoint("--from", q.from)
	if err != nil {
		return nil, err
	}
	to, err := endpoint("--to", q.to)
	if err != nil {
		return nil, err
	}
	t.Local, t.Remote = to, from
	if t.Outbound {
		t.Local, t.Remote = from, to
	}
	switch a, b := t.Local.Addr().Unmap(), t.Remote.Addr().Unmap(); {
	case t.Listening && !a.IsValid():
		return nil, errors.New("--to is needed: the address that the socket is bound to")
	case t.Listening && !slices.Contains(connect.Source("IP_PROTOCOL").Only, uint64(t.Protocol)):
		return nil, errors.New("--listen is for tcp and udp; what is judged of other sockets, --layer ALE_RESOURCE_ASSIGNMENT_V4 and _V6 answer")
	case !a.IsValid() && !b.IsValid():
		return nil, errors.New("--from and --to are needed")
	case a.IsValid() && b.IsValid() && a.Is4() != b.Is4():
		return nil, errors.New("--from and --to are of different families")
	}
	if q.program != "" {
		if t.App, err = field("ALE_APP_ID", q.program); err != nil {
			return nil, err
		}
	}
	principals, err := q.principals()
	if err != nil {
		return nil, err
	}
	if len(principals) > 0 {
		if t.User, err = field("ALE_USER_ID", principals...); err != nil {
			return nil, err
		}
	}
	// What this host knows of a link is welcome and not needed.
	if links, err := loader.HostLinks(q.target.Netns); err == nil {
		if q.iface != "" {
			t.Link = named(q.iface, links)
		}
		if q.port != "" {
			t.Port = named(q.port, links)
		}
		if q.outIface != "" {
			t.OutLink = named(q.outIface, links)
		}
		if t.Listening && q.iface == "" {
			t.Link = owning(t.Local.Addr(), netip.Addr{}, links)
		}
		t.FromHost, t.ToHost = hasAddress(links, t.Remote.Addr()), hasAddress(links, t.Local.Addr())
	}
	return t, nil
}

// endpoint reads an address and a port, each of which may be left out.
func endpoint(flag, s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
		return ap, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a, 0), nil
	}
	return netip.AddrPort{}, errors.New(flag + " " + strconv.Quote(s) + " is not an address with a port, such as 192.0.2.1:443 or [2001:db8::1]:443")
}

// principals are what --user and --unit say about the token. The programs know
// the user and the group that a process runs with, so a name stands for both.
func (q *question) principals() ([]string, error) {
	var out []string
	_, number := strconv.ParseUint(q.user, 10, 32)
	switch {
	case q.user == "":
	case number == nil:
		out = append(out, "uid:"+q.user)
	case strings.ContainsRune(q.user, ':') || strings.HasPrefix(strings.ToUpper(q.user), "S-1-"):
		out = append(out, q.user)
	default:
		u, err := user.Lookup(q.user)
		if err != nil {
			return nil, err
		}
		out = append(out, "uid:"+u.Uid, "gid:"+u.Gid)
	}
	if q.unit != "" {
		out = append(out, "unit:"+q.unit)
	}
	return slices.Compact(out), nil
}
