package main

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// An orderCheck asserts, while handlers run, that the events of a key are
// handled one at a time and in order.
type orderCheck struct {
	mu    sync.Mutex
	keys  map[string]*keyCheck
	fault atomic.Pointer[error]
}

type keyCheck struct {
	busy    atomic.Bool
	version int64 // the last one done; guarded by busy
}

func newOrderCheck() *orderCheck { return &orderCheck{keys: map[string]*keyCheck{}} }

// begin is called as a handler begins, the function it returns as it ends. An
// event that fails comes again: then done is not called with true.
func (o *orderCheck) begin(key string, version int64) (end func(done bool)) {
	o.mu.Lock()
	k := o.keys[key]
	if k == nil {
		k = &keyCheck{}
		o.keys[key] = k
	}
	o.mu.Unlock()
	if !k.busy.CompareAndSwap(false, true) {
		o.fail(fmt.Errorf("wrong result: version %d of %q is handled beside another", version, key))
		return func(bool) {}
	}
	if version != k.version+1 {
		o.fail(fmt.Errorf("wrong result: version %d of %q is handled after %d", version, key, k.version))
	}
	return func(done bool) {
		if done {
			k.version = version
		}
		k.busy.Store(false)
	}
}

func (o *orderCheck) fail(err error) { o.fault.CompareAndSwap(nil, &err) }

func (o *orderCheck) err() error {
	if p := o.fault.Load(); p != nil {
		return *p
	}
	return nil
}
