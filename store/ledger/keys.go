package ledger

import (
	"context"
	"slices"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
)

// Keys are what routing keys stand for. An event may carry the name of a route in place
// of the route itself. Then the ledger says which sandbox of a service is meant, and says
// so by position, as it does of registrations: a change of a route binds the key anew
// from one position of each log partition on, which all consumers use.
//
// Until that position stands a key is pending there. Whoever finds it so, and that may be
// anybody, reads the end of the partition and has [Keys.Bind] write it down; the first
// one counts. Who has not seen the change has read the ledger before it was made, and
// decides about nothing behind what it had seen of the partition by then: that is at or
// before each end that is read after the change.
type Keys interface {
	// Versions returns the version of each route, of those that were removed too while that
	// is kept. Another version may be bound otherwise, on some log and for some service.
	Versions(ctx context.Context) (map[string]int64, error)

	// Keys returns what is known of keys for a service on a log; of all of them where
	// names is nil. Those of which it has nothing are not in it. It is one snapshot.
	Keys(ctx context.Context, log, service string, names []string) ([]Key, error)

	// Bind says that what k's route names now holds behind a position of a log partition:
	// its end, read after [Keys.Keys] has returned k. Where k is not pending there any
	// more, or its route has changed since, it does nothing. A position before that of the
	// last binding counts as that one.
	Bind(ctx context.Context, log, service string, k *Key, partition int, from event.Position) error

	// ForgetKeys removes bindings that were followed by others, and those to no sandbox,
	// by what nobody reads any more of each log partition: what is up to upTo.
	ForgetKeys(ctx context.Context, log, service string, upTo map[int]event.Position) error
}

// A Key is what a routing key stands for, for a service on a log.
type Key struct {
	Name    string
	Host    string // what its route says now of the service; "": nothing, or there is no such route any more
	Version int64  // of its route: another one for each change
	// Bindings are those that have begun in each log partition, oldest first.
	Bindings map[int][]Binding
}

// A Binding is the host that a key stands for behind From, up to where the next one
// begins. Before the first there is none.
type Binding struct {
	From event.Position
	Host []byte // nil: no sandbox of the service; nobody may change it
}

// Pending reports whether it is not known yet from where on in a partition the key
// stands for what its route says now.
func (k *Key) Pending(partition int) bool {
	all := k.Bindings[partition]
	return len(all) == 0 && k.Host != "" || len(all) > 0 && string(all[len(all)-1].Host) != k.Host
}

// At returns the host that the key stands for at a position of a log partition, nil for
// none. K, which may be nil, is what [KeyView.Keys] has returned for that.
func (k *Key) At(partition int, p event.Position) []byte {
	if k == nil {
		return nil
	}
	for _, b := range slices.Backward(k.Bindings[partition]) {
		if p > b.From {
			return b.Host
		}
	}
	return nil
}

// A KeyView is what a consumer knows of routing keys: enough for the events that it has
// read. Safe for concurrent use. Use [NewKeyView].
type KeyView struct {
	l            Keys
	log, service string
	head         func(ctx context.Context, partition int) (event.Position, error)

	mu    sync.Mutex
	keys  map[string]*keyView
	bytes int    // of their names
	begun uint64 // readings of the ledger

	bound   map[string]int64 // versions of routes that were seen bound
	boundIn int              // as many partitions
}

// A keyView is a key, with how far each log partition was seen to reach before it was
// read: up to there it says all.
type keyView struct {
	key  *Key   // nil: the ledger has nothing of it
	read uint64 // the reading that it is from
	seen map[int]event.Position
}

// NewKeyView returns a view of the keys for a service on a log. Head is the end of a log
// partition, as for [Join].
func NewKeyView(l Keys, log, service string, head func(ctx context.Context, partition int) (event.Position, error)) *KeyView {
	return &KeyView{l: l, log: log, service: service, head: head, keys: map[string]*keyView{}}
}

// Keys returns those of names, for [Key.At] on the events of a log partition that carry
// them, up to the position that each has in last. The events have been read; seen is a
// position that the partition was seen to reach as they were, at or behind all of them.
// It asks the ledger only for what is not known, and binds there what is pending.
func (v *KeyView) Keys(ctx context.Context, partition int, last map[string]event.Position, seen event.Position) (map[string]*Key, error) {
	for {
		found, ask, reading := v.known(partition, last)
		if len(ask) == 0 {
			return found, nil
		}
		all, err := v.l.Keys(ctx, v.log, v.service, ask)
		if err != nil {
			return nil, err
		}
		v.took(partition, ask, reading, all, seen)
		if err := bind(ctx, v.l, v.log, v.service, all, []int{partition}, v.head); err != nil {
			return nil, err
		}
	}
}

// known returns what the view has, and the keys of whose events it cannot tell yet, with
// the number of the reading that is to tell.
func (v *KeyView) known(partition int, last map[string]event.Position) (found map[string]*Key, ask []string, reading uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found = make(map[string]*Key, len(last))
	for name, p := range last {
		if !nameable(name) {
			continue // there is no such route
		}
		if k := v.keys[name]; k == nil || p > k.seen[partition] || k.key != nil && k.key.Pending(partition) {
			ask = append(ask, name)
		} else {
			found[name] = k.key
		}
	}
	v.begun++
	return found, ask, v.begun
}

// took keeps what was read. A reading that began later than this one says enough for all
// that was seen before either: then only seen is new. That holds too where the later one
// was answered by an older ledger: what that one does not have begins behind what had
// been seen before it was asked.
func (v *KeyView) took(partition int, asked []string, reading uint64, all []Key, seen event.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.keys)+len(asked) > hostsAtMost || v.bytes > bytesAtMost {
		clear(v.keys)
		v.bytes = 0
	}
	for _, name := range asked {
		k := v.keys[name]
		if k == nil {
			k = &keyView{seen: map[int]event.Position{}}
			v.keys[name] = k
			v.bytes += len(name)
		}
		if k.read < reading {
			k.read, k.key = reading, nil
		}
		k.seen[partition] = max(k.seen[partition], seen)
	}
	for i := range all {
		if k := v.keys[all[i].Name]; k != nil && k.read == reading {
			k.key = &all[i]
		}
	}
}

// Bind binds the keys of names, or all where that is nil, in those of a log's partitions
// where they are pending: what is appended there when it has returned is routed by what
// the routes were when it was called, or by later ones. To call it again for all costs
// little while nothing changes.
func (v *KeyView) Bind(ctx context.Context, names []string, partitions int) error {
	if names != nil {
		return Bind(ctx, v.l, v.log, v.service, names, partitions, v.head)
	}
	versions, err := v.l.Versions(ctx)
	if err != nil {
		return err
	}
	names = []string{}
	v.mu.Lock()
	for name, version := range versions {
		if v.bound[name] != version || v.boundIn < partitions {
			names = append(names, name)
		}
	}
	v.mu.Unlock()
	if len(names) > 0 {
		if err := Bind(ctx, v.l, v.log, v.service, names, partitions, v.head); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bound, v.boundIn = versions, partitions
	return nil
}

// Bind is [KeyView.Bind] without a view.
func Bind(ctx context.Context, l Keys, log, service string, names []string, partitions int, head func(ctx context.Context, partition int) (event.Position, error)) error {
	all, err := l.Keys(ctx, log, service, names)
	if err != nil {
		return err
	}
	of := make([]int, partitions)
	for p := range of {
		of[p] = p
	}
	return bind(ctx, l, log, service, all, of, head)
}

// bind does it for keys that have been read.
func bind(ctx context.Context, l Keys, log, service string, all []Key, partitions []int, head func(context.Context, int) (event.Position, error)) error {
	for _, p := range partitions {
		read, from := false, event.Position(0)
		for i := range all {
			if !all[i].Pending(p) {
				continue
			}
			var err error
			if !read {
				if from, err = head(ctx, p); err != nil {
					return err
				}
				read = true
			}
			if err := l.Bind(ctx, log, service, &all[i], p, from); err != nil {
				return err
			}
		}
	}
	return nil
}
