package main

import (
	"os"
	"strconv"
	"strings"
)

// peakRSS returns the most memory that this process has had resident, in bytes;
// 0 where that is not known. Not by getrusage: its figure survives an exec, so
// it may be that of whoever started this program.
func peakRSS() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		rest, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err == nil {
			return n << 10
		}
	}
	return 0
}
