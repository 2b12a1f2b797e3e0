package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// ticksPerSecond is the unit of /proc, the same on all of today's Linux.
const ticksPerSecond = 100

// machineTime returns how many seconds the machine's processors were busy, and
// how many there were, as /proc/stat has it; zeros where there is none.
func machineTime() (busy, total float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	for i, f := range bytes.Fields(line) {
		if i == 0 || i > 8 {
			continue // the name; guests are counted already
		}
		v, _ := strconv.ParseFloat(string(f), 64)
		total += v / ticksPerSecond
		if i != 4 && i != 5 { // idle, waiting for a disk
			busy += v / ticksPerSecond
		}
	}
	return busy, total
}

// serverTime returns how many seconds of processors the PostgreSQL server of a
// data directory has used, with its sessions; 0 where that cannot be known.
func serverTime(dir string) float64 {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	master, _, _ := bytes.Cut(b, []byte("\n"))
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0
	}
	sum := 0.0
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid ...: the name may hold anything.
		at := bytes.LastIndexByte(b, ')')
		if at < 0 {
			continue
		}
		f := bytes.Fields(b[at+1:])
		if len(f) < 15 {
			continue
		}
		self := filepath.Base(filepath.Dir(name)) == string(master)
		if !self && string(f[1]) != string(master) {
			continue
		}
		times := f[11:13] // user, system
		if self {
			times = f[11:15] // and those of sessions that have ended
		}
		for _, t := range times {
			v, _ := strconv.ParseFloat(string(t), 64)
			sum += v / ticksPerSecond
		}
	}
	return sum
}

// folderTime returns how many seconds of processors the processes have used that are
// there and have a folder in their command line, in units of 10 ms.
func folderTime(folder string) (sum float64) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0
	}
	for _, name := range lines {
		line, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(line, []byte(folder)) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(name), "stat"))
		if err != nil {
			continue // it has ended
		}
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		for i := 11; i < 13 && i < len(f); i++ { // user, system
			v, _ := strconv.ParseFloat(string(f[i]), 64)
			sum += v / ticksPerSecond
		}
	}
	return sum
}
