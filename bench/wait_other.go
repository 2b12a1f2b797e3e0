//go:build !linux

package main

import "time"

// ioWait waits as a handler does that waits for another system.
func ioWait(d time.Duration) { handlerWait(d) }
