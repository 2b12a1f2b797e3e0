package main

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// A window is a stretch of a run, in Unix nanoseconds.
type window struct{ from, to int64 }

func (w window) length() time.Duration { return time.Duration(w.to - w.from) }

// A beat is that something took effect in a partition, and in which process.
type beat struct {
	when    int64
	process int
}

// A pulse is all that took effect of one processor, by partition, in order of time.
type pulse [][]beat

// pulses takes the beats of a kind from the stamps of processes.
func pulses(stamps [][]stamp, partitions int, what byte) pulse {
	p := make(pulse, partitions)
	for process, all := range stamps {
		for _, x := range all {
			if x.what == what && x.partition < partitions {
				p[x.partition] = append(p[x.partition], beat{x.when, process})
			}
		}
	}
	for _, beats := range p {
		slices.SortFunc(beats, func(a, b beat) int { return int(a.when - b.when) })
	}
	return p
}

// gap returns the longest time in a window without a beat: from the last one before
// the window, or the last one of it, to the next, which may be behind it. False:
// there is none.
func (p pulse) gap(partition int, w window) (time.Duration, bool) {
	beats := p[partition]
	i := sort.Search(len(beats), func(i int) bool { return beats[i].when >= w.from })
	if i == 0 {
		return 0, false
	}
	longest := int64(0)
	for last := beats[i-1].when; last < w.to; i++ {
		if i >= len(beats) {
			return 0, false
		}
		longest, last = max(longest, beats[i].when-last), beats[i].when
	}
	return time.Duration(longest), true
}

// owners returns which processes a partition took effect in: the last one before the
// window, then those in it in the order in which they came, up to the one with the
// first beat behind it.
func (p pulse) owners(partition int, w window) (in []int) {
	for _, b := range p[partition] {
		switch {
		case b.when < w.from:
			in = []int{b.process}
		case !slices.Contains(in, b.process):
			in = append(in, b.process)
		}
		if b.when >= w.to {
			return in
		}
	}
	return in
}

// A rebalanceTimes is what partitions felt.
type rebalanceTimes struct {
	moved, stayed, control []time.Duration
	longer                 []excess // of the partitions that stayed, a step each
}

// An excess is by how much the gaps of n partitions are longer, in all, than the gaps
// that the same partitions have in the control window.
type excess struct {
	sum time.Duration
	n   int
}

// shift returns by how much gaps are longer in the mean, how probable it is that it is
// as much or more where there is no difference, and the most by which they may be
// longer: a larger shift would show in all but one of a hundred runs. It is Fisher's
// randomisation test for pairs (The Design of Experiments, 1935, section 21): without a
// difference either window of a step may be the control. What partitions of one step feel
// is not independent, so a step is swapped whole.
func shift(longer []excess) (mean time.Duration, p float64, most time.Duration) {
	n := 0
	for _, x := range longer {
		mean += x.sum
		n += x.n
	}
	if n == 0 {
		return 0, 1, 0
	}
	// tail is the share of the ways to swap of which the sum of what is left above
	// a shift is as large as in the run, or as small.
	tail := func(by time.Duration, large bool) float64 {
		hits, ways := 0, 1<<len(longer)
		for way := range ways {
			var sum, run time.Duration
			for i, x := range longer {
				d := x.sum - time.Duration(x.n)*by
				if run += d; way>>i&1 == 1 {
					d = -d
				}
				sum += d
			}
			if large && sum >= run || !large && sum <= run {
				hits++
			}
		}
		return float64(hits) / float64(ways)
	}
	mean /= time.Duration(n)
	low, high := mean, mean+time.Minute
	for high-low > 100*time.Microsecond {
		if mid := (low + high) / 2; tail(mid, false) > 0.01 {
			low = mid
		} else {
			high = mid
		}
	}
	return mean, tail(0, true), high
}

// unaffected returns the pause of partitions that stay: the shift in the mean, where
// chance makes as much no more than once in a hundred runs, and what the P99 is above the longest
// gap of a control window, where it is twice as long, as what happens in one step alone is no
// difference in the mean. With it come p and the bound of [shift]. The times are sorted.
func (t *rebalanceTimes) unaffected() (pause time.Duration, p float64, most time.Duration) {
	mean, p, most := shift(t.longer)
	if p <= 0.01 {
		pause = max(0, mean)
	}
	if p99, longest := quantile(t.stayed, 0.99), quantile(t.control, 1); p99 > 2*longest {
		pause = max(pause, p99-longest)
	}
	return pause, p, most
}

func (t *rebalanceTimes) sort() {
	for _, s := range [][]time.Duration{t.moved, t.stayed, t.control} {
		slices.Sort(s)
	}
}

// usual is the longest gap of a partition in the median control window.
func (t *rebalanceTimes) usual() time.Duration { return quantile(t.control, 0.5) }

// above returns by how much a gap is longer than another, 0 where it is not.
func above(gap, usual time.Duration) time.Duration { return max(0, gap-usual) }

// add adds what partitions felt in the window of a rebalance and in its control
// window.
func (t *rebalanceTimes) add(p pulse, rebalance, control window) error {
	var longer excess
	for part := range p {
		g, ok := p.gap(part, rebalance)
		c, calm := p.gap(part, control)
		if !ok || !calm {
			return fmt.Errorf("wrong result: partition %d stands still to the end", part)
		}
		if t.control = append(t.control, c); len(p.owners(part, rebalance)) > 1 {
			t.moved = append(t.moved, g)
		} else {
			t.stayed = append(t.stayed, g)
			longer.sum += g - c
			longer.n++
		}
	}
	t.longer = append(t.longer, longer)
	return nil
}

// repeats returns how many calls of a reactor's handler were repetitions, and how many
// of these repeated one that was not in flight: it had returned, and two commits of its
// lane that began after that had returned in its own process.
func repeats(stamps [][]stamp) (again, needless int) {
	type call struct {
		process     int
		began, when int64 // when: 0, it did not return
		partition   int
	}
	calls := map[int64][]call{}
	commits := map[[2]int][]stamp{} // by process and partition
	for process, all := range stamps {
		open := map[int64]int{}
		for _, x := range all {
			switch x.what {
			case stampBegin:
				open[x.at] = len(calls[x.at])
				calls[x.at] = append(calls[x.at], call{process, x.began, 0, x.partition})
			case stampEnd:
				if i, ok := open[x.at]; ok {
					calls[x.at][i].when = x.when
				}
			case stampDone:
				k := [2]int{process, x.partition}
				commits[k] = append(commits[k], x)
			}
		}
	}
	for _, cs := range calls {
		slices.SortFunc(cs, func(a, b call) int { return int(a.began - b.began) })
		for i := 1; i < len(cs); i++ {
			again++
			first := cs[i-1]
			since := 0
			for _, c := range commits[[2]int{first.process, first.partition}] {
				if first.when != 0 && c.began > first.when && c.when < cs[i].began {
					since++
				}
			}
			if since >= 2 {
				needless++
			}
		}
	}
	return again, needless
}
