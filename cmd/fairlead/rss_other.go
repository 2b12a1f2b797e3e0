//go:build !unix

package main

import "runtime"

// peakRSS returns what the Go runtime has asked of the system, in bytes: there
// is no better figure here.
func peakRSS() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
