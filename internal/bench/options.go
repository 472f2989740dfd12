package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leasehold-go/leasehold/internal/fleet"
)

// What the flags -dist, -mode and -net take.
const (
	distUniform, distZipf = "uniform", "zipf"
	modeRead, modeWrite   = "read", "write"
	netDirect, netDelay   = "direct", "delay"
)

// modeHold is a call that takes 20 ms and no processor. Only a flood is made of it.
const modeHold = "hold"

// options say what to measure.
type options struct {
	tenants    []int
	tables     int
	rows       int
	conns      int
	delayConns int
	perConn    int
	perLogin   int
	lanes      int
	perBackend int
	delay      time.Duration
	time       time.Duration
	slice      time.Duration
	warm       time.Duration
	dists      []string
	modes      []string
	nets       []string
	ways       []way
	profile    string
	// calls ends a round after that many calls of each worker. Zero means that the time does. For tests.
	calls int
}

// experiment is what can be measured.
type experiment struct {
	name     string
	run      func(*bench, context.Context) error
	defaults options
}

// chosen is an experiment with the options that it is to run with.
type chosen struct {
	experiment
	options
}

// tableRows are many enough that calls of different connections seldom meet on one row of the busiest tenant.
const tableRows = 50

// directoryPerLogin is how many tenants the directory gives to each runtime login, by default.
const directoryPerLogin = 2000

var experiments = []experiment{
	{"table", (*bench).table, options{tenants: []int{10, 100, 1000, 5000}, tables: 1, rows: tableRows, time: time.Second}},
	{"allocs", (*bench).allocs, options{tenants: []int{1}, tables: 1, rows: tableRows}},
	{"memory", (*bench).memory, options{tenants: []int{10_000}, tables: 10, rows: 1, time: time.Minute, slice: time.Second}},
	{"flood", (*bench).flood, options{tenants: []int{100}, tables: 1, rows: tableRows, time: 5 * time.Second}},
	{"roles", (*bench).roles, options{tenants: []int{10_000}, tables: 1, rows: 1, time: 5 * time.Second}},
}

// smoke makes an experiment as small as it can be, with a length in calls and not in time.
func (o *options) smoke() {
	o.tenants, o.tables, o.rows = []int{3}, min(o.tables, 2), 2
	o.conns, o.delayConns, o.perConn = 2, 2, 2
	o.time, o.slice, o.warm, o.calls = 2*time.Minute, time.Minute, time.Minute, 3
}

// parse reads the arguments: the name of an experiment, or all, or nothing for the table and allocations; then flags.
func parse(args []string, usage io.Writer) ([]chosen, error) {
	names := []string{"table", "allocs"}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		names, args = args[:1], args[1:]
	}
	var all []chosen
	for _, e := range experiments {
		if !slices.Contains(names, e.name) && names[0] != "all" {
			continue
		}
		o, err := e.parse(args, usage)
		if err != nil {
			return nil, err
		}
		all = append(all, chosen{e, o})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no experiment %q; want table, allocs, memory, flood, roles or all", names[0])
	}
	return all, nil
}

func (e experiment) parse(args []string, usage io.Writer) (options, error) {
	o := e.defaults
	o.ways = ways
	if o.slice == 0 {
		o.slice = 250 * time.Millisecond
	}
	o.dists, o.modes, o.nets = []string{distUniform, distZipf}, []string{modeRead, modeWrite}, []string{netDirect, netDelay}
	fs := flag.NewFlagSet(e.name, flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.Usage = func() {
		_, _ = fmt.Fprintf(usage, "Usage: bench [table|allocs|memory|flood|roles|all] [flags]\nFlags of %s:\n", e.name)
		fs.PrintDefaults()
	}
	fs.Func("tenants", "how many tenants to visit, as a `list`, such as 10,100 (default "+numbers(o.tenants)+")", o.setTenants)
	fs.IntVar(&o.tables, "tables", o.tables, "tables of each tenant")
	fs.IntVar(&o.rows, "rows", o.rows, "rows of each table")
	fs.IntVar(&o.conns, "conns", 16, "connections of each way")
	// Far from the server the network is what a call waits for, unless connections are so many that processors are.
	fs.IntVar(&o.delayConns, "delay-conns", 4, "connections of each way through the delaying proxy")
	// Connections are what a busy server is short of. With fewer goroutines than these, some would lie idle.
	fs.IntVar(&o.perConn, "goroutines", 4, "goroutines for each connection")
	fs.IntVar(&o.perLogin, "per-login", directoryPerLogin, "tenants of each runtime login")
	fs.IntVar(&o.lanes, "lanes", 0, "tenantdb's Lanes; 0 is its default")
	fs.IntVar(&o.perBackend, "tenants-per-conn", 0, "tenantdb's MaxTenantsPerConn; 0 is its default")
	fs.DurationVar(&o.delay, "delay", time.Millisecond, "what the proxy adds, each way")
	fs.DurationVar(&o.time, "time", o.time, "time for each way in each line of the table")
	fs.DurationVar(&o.slice, "slice", o.slice, "length of a round, after which the next way has its turn, or memory is read")
	fs.DurationVar(&o.warm, "warm", 20*time.Second, "at most this long each way calls before it is measured")
	fs.Func("dist", "how calls are spread over tenants, as a `list` (default uniform,zipf)", oneOf(&o.dists, distUniform, distZipf))
	fs.Func("mode", "what a call does, as a `list` (default read,write)", oneOf(&o.modes, modeRead, modeWrite))
	fs.Func("net", "what lies in between, as a `list` (default direct,delay)", oneOf(&o.nets, netDirect, netDelay))
	fs.Func("ways", "the ways to compare, as a `list` (default all)", o.setWays)
	fs.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of the table's client side to `file`")
	tiny := fs.Bool("smoke", false, "measure nothing, but run everything once, tiny")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q is one argument too many", fs.Arg(0))
	}
	if *tiny {
		o.smoke()
	}
	if min(o.tables, o.rows, o.conns, o.delayConns, o.perConn, o.perLogin) < 1 {
		return o, errors.New("-tables, -rows, -conns, -delay-conns, -goroutines and -per-login must be at least 1")
	}
	if o.slice <= 0 || o.delay < 0 || o.time < 0 || o.warm < 0 {
		return o, errors.New("-slice must be positive, -delay, -time and -warm at least 0")
	}
	return o, nil
}

func numbers(list []int) string {
	text := make([]string, len(list))
	for i, n := range list {
		text[i] = strconv.Itoa(n)
	}
	return strings.Join(text, ",")
}

func (o *options) setTenants(list string) error {
	o.tenants = nil
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is no number of tenants", text)
		}
		o.tenants = append(o.tenants, n)
	}
	return nil
}

func (o *options) setWays(list string) error {
	var names, known []string
	for _, w := range ways {
		known = append(known, w.name)
	}
	if err := oneOf(&names, known...)(list); err != nil {
		return err
	}
	o.ways = slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return !slices.Contains(names, w.name) })
	return nil
}

// oneOf returns a flag's function that takes a list of known words.
func oneOf(to *[]string, known ...string) func(string) error {
	return func(list string) error {
		*to = strings.Split(list, ",")
		for _, word := range *to {
			if !slices.Contains(known, word) {
				return fmt.Errorf("%q is not one of %s", word, strings.Join(known, ", "))
			}
		}
		return nil
	}
}

// fleet is what has to be built.
func (o *options) fleet() fleet.Config {
	return fleet.Config{Tenants: o.maxTenants(), Tables: o.tables, Rows: o.rows, TenantsPerLogin: o.perLogin}
}

// maxTenants is how many tenants have to be built.
func (o *options) maxTenants() int { return slices.Max(o.tenants) }

// round is how one turn of a way ends.
func (o *options) round() limit { return limit{time: o.slice, calls: o.calls} }

// rounds is how many turns each way has.
func (o *options) rounds() int { return max(1, int(o.time/o.slice)) }
