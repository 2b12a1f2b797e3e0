package main

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ioTimers are the files of those that wait.
var ioTimers = sync.Pool{New: func() any {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return (*os.File)(nil)
	}
	return os.NewFile(uintptr(fd), "timer")
}}

// ioWait waits as a handler does that waits for another system's answer: until a file can
// be read from. A timer of Go's in a process that has nothing else to do is not the same: it
// is rounded to the milliseconds of epoll_wait, up or down by what the others wait for.
func ioWait(d time.Duration) {
	f := ioTimers.Get().(*os.File)
	defer ioTimers.Put(f)
	if f != nil && d > 0 { // zero would disarm it
		c, err := f.SyscallConn()
		if err == nil {
			spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
			var failed error
			err = c.Control(func(fd uintptr) { failed = unix.TimerfdSettime(int(fd), 0, &spec, nil) })
			if err == nil && failed == nil {
				var expired [8]byte
				if _, err := f.Read(expired[:]); err == nil {
					return
				}
			}
		}
	}
	handlerWait(d)
}
