package main

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// An orderCheck asserts, while handlers run, that the events of a key are
// handled one at a time and in order.
type orderCheck struct {
	known map[string]*keyCheck // never changes: to look there takes no lock
	mu    sync.Mutex
	keys  map[string]*keyCheck
	fault atomic.Pointer[error]
}

type keyCheck struct {
	busy    atomic.Bool
	version int64 // the last one done; guarded by busy
}

// newOrderCheck returns a check; to name the keys beforehand makes it cheaper.
func newOrderCheck(known ...string) *orderCheck {
	o := &orderCheck{known: make(map[string]*keyCheck, len(known)), keys: map[string]*keyCheck{}}
	for _, k := range known {
		o.known[k] = &keyCheck{}
	}
	return o
}

// begin is called as a handler begins, the function it returns as it ends. An
// event that fails comes again: then done is not called with true.
func (o *orderCheck) begin(key string, version int64) (end func(done bool)) {
	k := o.known[key]
	if k == nil {
		k = o.unknown(key)
	}
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

func (o *orderCheck) unknown(key string) *keyCheck {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := o.keys[key]
	if k == nil {
		k = &keyCheck{}
		o.keys[key] = k
	}
	return k
}

func (o *orderCheck) fail(err error) { o.fault.CompareAndSwap(nil, &err) }

func (o *orderCheck) err() error {
	if p := o.fault.Load(); p != nil {
		return *p
	}
	return nil
}
