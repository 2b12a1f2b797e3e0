package compare

import (
	"cmp"
	"context"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// A stream reads a build in the order of its keys, a page at a time.
type stream struct {
	c     *comparison
	build store.Build
	page  []store.Document
	after store.Key // of the last document that was read
	limit int
	ended bool

	before, afterwards reach // how far the builds were before the page was read, and after it
}

func (c *comparison) stream(b store.Build) *stream {
	s := &stream{c: c, build: b, limit: 64}
	s.after.Tenant = c.r.Tenant // no id is "", so all of the tenant's are above it
	return s
}

// first returns the next document, or nil at the end.
func (s *stream) first(ctx context.Context) (*store.Document, error) {
	if len(s.page) == 0 && !s.ended {
		if err := s.read(ctx); err != nil {
			return nil, err
		}
	}
	if len(s.page) == 0 {
		return nil, nil
	}
	return &s.page[0], nil
}

func (s *stream) read(ctx context.Context) (err error) {
	if s.before, err = s.c.reach(ctx); err != nil {
		return err
	}
	if s.page, err = s.c.s.ListBuild(ctx, s.build, s.after, s.limit); err != nil {
		return err
	}
	if s.afterwards, err = s.c.reach(ctx); err != nil {
		return err
	}
	s.ended = len(s.page) < s.limit
	if len(s.page) == 0 {
		return nil
	}
	bytes := 0
	for i := range s.page {
		bytes += len(s.page[i].Data) + 200
		if only := s.c.r.Tenant; only != "" && s.page[i].Tenant != only {
			s.page, s.ended = s.page[:i], true
			return nil
		}
	}
	s.limit = max(1, min(pageMost, pageBytes*len(s.page)/bytes))
	s.after = s.page[len(s.page)-1].Key
	return nil
}

func compareKeys(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.ID, b.ID))
}

// run compares all documents, and those that could not be compared again.
func (c *comparison) run(ctx context.Context) error {
	old, new := c.stream(c.old), c.stream(c.new)
	for {
		n, err := new.first(ctx)
		if err != nil {
			return err
		}
		o, err := old.first(ctx)
		if err != nil {
			return err
		}
		if o == nil && n == nil {
			break
		}
		order := 0
		switch {
		case o == nil:
			order = 1
		case n == nil:
			order = -1
		default:
			order = compareKeys(o.Key, n.Key)
		}
		a := side{before: old.before, after: old.afterwards, build: c.old.Number}
		b := side{before: new.before, after: new.afterwards, build: c.new.Number}
		var k store.Key
		if order <= 0 {
			a.d, k = o, o.Key
			old.page = old.page[1:]
		}
		if order >= 0 {
			b.d, k = n, n.Key
			new.page = new.page[1:]
		}
		if kind := c.judge(k, a, b); kind == InMotion && len(c.moving) < secondLooks {
			c.moving = append(c.moving, k)
		} else {
			c.note(k, kind, a.d, b.d)
		}
	}
	if err := c.lookAgain(ctx); err != nil {
		return err
	}
	c.closeTenant()
	c.cutTop()
	c.r.Tenants = append(c.r.Tenants, c.top...)
	return nil
}

// lookAgain looks again at documents that were in motion: what moves now is
// others. Those of one side that are not there are read after the other side in
// one look, and before it in the next: see judge.
func (c *comparison) lookAgain(ctx context.Context) error {
	for look := 0; len(c.moving) > 0; look++ {
		var rest []store.Key
		for i := 0; i < len(c.moving); i += 50 {
			keys := c.moving[i:min(i+50, len(c.moving))]
			sides, err := c.load(ctx, keys, look%2 == 1)
			if err != nil {
				return err
			}
			for j, k := range keys {
				old, new := sides[0][j], sides[1][j]
				kind := c.judge(k, old, new)
				if kind == InMotion && look < looks {
					rest = append(rest, k)
					continue
				}
				c.note(k, kind, old.d, new.d)
			}
		}
		if c.moving = rest; len(rest) > 0 {
			select {
			case <-time.After(betweenLooks):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// load reads documents of both builds, of the old one first or last.
func (c *comparison) load(ctx context.Context, keys []store.Key, oldFirst bool) (sides [2][]side, err error) {
	builds := []store.Build{c.old, c.new}
	before, err := c.reach(ctx)
	for i := range builds {
		if !oldFirst {
			i = 1 - i
		}
		if err != nil {
			return sides, err
		}
		docs, err := c.s.Load(ctx, builds[i], keys)
		if err != nil {
			return sides, err
		}
		after, err := c.reach(ctx)
		if err != nil {
			return sides, err
		}
		found := map[store.Key]*store.Document{}
		for j := range docs {
			found[docs[j].Key] = &docs[j]
		}
		for _, k := range keys {
			sides[i] = append(sides[i], side{d: found[k], before: before, after: after, build: builds[i].Number})
		}
		before = after
	}
	return sides, nil
}
