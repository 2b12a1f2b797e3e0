package tenancy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An Origin is what a request carries on to the messages that it causes.
type Origin struct {
	Tenant string
	Class  string
	Route  map[string]string // service -> host label of a sandbox; with Names.RouteKey: "" -> key
}

type originKey struct{}

// NewContext returns a context that carries o.
func NewContext(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// FromContext returns what [NewContext] gave to ctx.
func FromContext(ctx context.Context) (o Origin, ok bool) {
	o, ok = ctx.Value(originKey{}).(Origin)
	return o, ok
}

// Write returns headers with what o says in place of what they said of it, in
// headers of its own and in the baggage, whose other members stay. It fails where
// the baggage would pass the limits beyond which it may be dropped on its way;
// then the headers are as they were.
func Write[H ~struct {
	Key   string
	Value []byte
}](n *Names, headers []H, o Origin) ([]H, error) {
	return write(n, headers, o.Tenant, o.Class, n.formatRoute(o.Route))
}

// Carry returns headers with this tenant and class in place of what they say of
// them. The route stays as it is, and so does the class where it is "". Headers with a [Fault] stay as they are too: whoever
// consumes them is to see that.
func Carry[H ~struct {
	Key   string
	Value []byte
}](n *Names, headers []H, tenant, class string) ([]H, error) {
	c := Read(n, headers)
	if c.Fault == BadBaggage { // which may be somebody else's: it is passed on, and headers of their own say the rest
		plain := *n
		plain.BaggageTenant, plain.BaggageClass, plain.BaggageRoute = "", "", ""
		n, c = &plain, Read(&plain, headers)
	}
	if c.Fault != NoFault {
		return headers, nil
	}
	return write(n, headers, tenant, cmp.Or(class, string(c.Class)), string(c.Route))
}

func write[H ~struct {
	Key   string
	Value []byte
}](n *Names, headers []H, tenant, class, route string) ([]H, error) {
	var out []H
	var members []string
	for i := range headers {
		h := Header(headers[i])
		switch {
		case h.Key != "" && (h.Key == n.Tenant || h.Key == n.Class || h.Key == n.Route):
		case h.Key == baggageKey && n.baggage():
			for m := range bytes.SplitSeq(h.Value, []byte(",")) {
				key, _, _ := bytes.Cut(m, []byte("="))
				switch k := string(bytes.TrimSpace(key)); k {
				case "", n.BaggageTenant, n.BaggageClass, n.BaggageRoute:
				default:
					members = append(members, string(bytes.TrimSpace(m)))
				}
			}
		default:
			out = append(out, headers[i])
		}
	}
	for _, w := range []struct{ header, member, value string }{
		{n.Tenant, n.BaggageTenant, tenant}, {n.Class, n.BaggageClass, class}, {n.Route, n.BaggageRoute, route},
	} {
		if w.value == "" {
			continue
		}
		if len(w.value) > MaxValue {
			return headers, fmt.Errorf("tenancy: header %q: a value of %d bytes, at most %d are passed on", w.header+w.member, len(w.value), MaxValue)
		}
		if w.header != "" {
			v := w.value
			if n.Encoded {
				v = encode(v)
			}
			out = append(out, H(Header{w.header, []byte(v)}))
		}
		if w.member != "" {
			members = append(members, w.member+"="+encode(w.value))
		}
	}
	if len(members) > 0 {
		list := strings.Join(members, ",")
		if len(members) > MaxBaggageMembers || len(list) > MaxBaggageBytes {
			return headers, fmt.Errorf("tenancy: baggage of %d members and %d bytes, beyond %d and %d it may be dropped on its way: pass on less",
				len(members), len(list), MaxBaggageMembers, MaxBaggageBytes)
		}
		out = append(out, H(Header{baggageKey, []byte(list)}))
	}
	return out, nil
}

func (n *Names) formatRoute(route map[string]string) string {
	if n.RouteKey {
		return route[""]
	}
	var b strings.Builder
	for i, service := range slices.Sorted(maps.Keys(route)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(encode(service))
		b.WriteByte('=')
		b.WriteString(encode(route[service]))
	}
	return b.String()
}

// encode percent-encodes what may not be in a baggage value, and "=", which would
// end a name in a route.
func encode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c > ' ' && c < 0x7f && !strings.ContainsRune(`%,;"\={`, rune(c)) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
