package main

import (
	"container/heap"
	"time"
)

// listSchedule returns the makespan of the list schedule that knows everything
// beforehand: chains of jobs, each chain in order and one job at a time, on so
// many workers without any overhead; a worker that is free takes the next job
// of the waiting chain with the most work left (longest remaining chain first).
func listSchedule(chains [][]time.Duration, workers int) time.Duration {
	var waiting byLeft
	for _, jobs := range chains {
		if len(jobs) == 0 {
			continue
		}
		c := &chain{jobs: jobs}
		for _, d := range jobs {
			c.left += d
		}
		waiting = append(waiting, c)
	}
	heap.Init(&waiting)
	var running byEnd
	var now time.Duration
	for len(waiting)+len(running) > 0 {
		for len(running) < workers && len(waiting) > 0 {
			c := heap.Pop(&waiting).(*chain)
			c.end = now + c.jobs[0]
			c.left -= c.jobs[0]
			c.jobs = c.jobs[1:]
			heap.Push(&running, c)
		}
		c := heap.Pop(&running).(*chain)
		now = c.end
		if len(c.jobs) > 0 {
			heap.Push(&waiting, c)
		}
	}
	return now
}

type chain struct {
	jobs []time.Duration
	left time.Duration // of those that were not started
	end  time.Duration // of the one that is running
}

type byLeft []*chain

func (h byLeft) Len() int           { return len(h) }
func (h byLeft) Less(i, j int) bool { return h[i].left > h[j].left }
func (h byLeft) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byLeft) Push(x any)        { *h = append(*h, x.(*chain)) }
func (h *byLeft) Pop() any          { return pop((*[]*chain)(h)) }

type byEnd []*chain

func (h byEnd) Len() int           { return len(h) }
func (h byEnd) Less(i, j int) bool { return h[i].end < h[j].end }
func (h byEnd) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byEnd) Push(x any)        { *h = append(*h, x.(*chain)) }
func (h *byEnd) Pop() any          { return pop((*[]*chain)(h)) }

func pop(h *[]*chain) *chain {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return c
}
