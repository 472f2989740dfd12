package main

import (
	"fmt"
	"io"
	"strconv"
)

// write prints the run: how things stood, period by period, and each server in the end if that is wanted.
func (s *simulation) write(w io.Writer, each bool) {
	t := newTable("year")
	for _, name := range []string{
		"tenants", "signed up since", "left since", "servers, by schema", "of these closed to newcomers", "servers, a database each",
		"fill with tenants: least", "fill: median", "fill: most", "disk: median", "disk: worst day of any server", "load: worst day of any server",
		"newcomers of one server in a day, most", "moves a day: mean", "moves a day: most", "longest queue of moves",
		"moved to a database of their own", "moved, GB a day",
	} {
		t.row(name)
	}
	before := 0
	for _, p := range s.report {
		days := float64(p.day - before)
		before = p.day
		t.add(strconv.FormatFloat(float64(p.day)/365, 'f', 1, 64), []string{
			count(int64(p.living)), count(int64(p.signUps)), count(int64(p.left)),
			strconv.Itoa(p.shared), strconv.Itoa(p.closed), strconv.Itoa(p.own),
			percent(p.minFill), percent(p.medianFill), percent(p.maxFill), percent(p.medianDisk), percent(p.worstDisk), percent(p.worstRate),
			count(int64(p.mostNewcomers)), strconv.FormatFloat(float64(p.moves)/days, 'f', 1, 64), strconv.Itoa(p.mostMoves),
			count(int64(p.longestQueue)), count(int64(p.toOwn)), strconv.FormatFloat(p.movedMB/1024/days, 'f', 1, 64),
		})
	}
	t.write(w)
	worst := s.worst()
	_, _ = fmt.Fprintf(w, "Worst in all: tenants %s of max_tenants, disk %s, load %s; %d moves in a day of %d allowed; ",
		percent(worst.maxFill), percent(worst.worstDisk), percent(worst.worstRate), worst.mostMoves, s.MovesPerDay)
	_, _ = fmt.Fprintf(w, "%s of %s tenants have a database of their own.\n", count(int64(s.owners())), count(int64(s.living)))
	if each {
		s.writeServers(w)
	}
}

// percent rounds. A sum of which everything was taken again is not quite 0.
func percent(part float64) string { return strconv.FormatFloat(max(0, 100*part), 'f', 0, 64) + " %" }

// worst is the worst of all periods.
func (s *simulation) worst() (worst period) {
	for _, v := range s.servers {
		worst.maxFill = max(worst.maxFill, v.highest)
	}
	for _, p := range s.report {
		worst.worstDisk, worst.worstRate = max(worst.worstDisk, p.worstDisk), max(worst.worstRate, p.worstRate)
		worst.mostMoves, worst.longestQueue = max(worst.mostMoves, p.mostMoves), max(worst.longestQueue, p.longestQueue)
	}
	return worst
}

// owners counts the tenants that have a database of their own.
func (s *simulation) owners() (n int) {
	for _, v := range s.servers {
		if v.own {
			n += len(v.members)
		}
	}
	return n
}

func (s *simulation) writeServers(w io.Writer) {
	_, _ = fmt.Fprintln(w, "\n| server | kind | tenants | fill | most ever | disk | worst ever |\n| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
	for i, v := range s.servers {
		kind := "schemas"
		switch {
		case v.own:
			kind = "databases"
		case v.draining:
			kind = "retired"
		}
		_, _ = fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %s | %s |\n", i+1, kind, count(int64(len(v.members))), percent(v.fill()), percent(v.highest),
			percent(s.disk(v)), percent(v.worstDisk))
	}
}
