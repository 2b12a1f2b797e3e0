package postgres

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/fairlead-dev/fairlead/event"
)

// storable reports whether PostgreSQL can hold s as text. What is not can be no
// name in the log.
func storable[T string | []byte](s T) bool {
	b := []byte(s)
	return bytes.IndexByte(b, 0) < 0 && utf8.Valid(b)
}

// view returns b as a string without copying it. The caller keeps b as it is
// while the string is used.
func view(b []byte) *string {
	s := unsafe.String(unsafe.SliceData(b), len(b))
	return &s
}

// PostgreSQL's timestamps, from its manual, "Date/Time Types".
var (
	minTime = time.Date(-4712, 1, 1, 0, 0, 0, 0, time.UTC)
	maxTime = time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC)
)

// clampTime moves t to the nearest time that PostgreSQL can hold.
func clampTime(t time.Time) time.Time {
	if t.Before(minTime) {
		return minTime
	}
	if t.After(maxTime) {
		return maxTime
	}
	return t
}

// encodeMetadata returns m as a JSON object with sorted keys. What is not UTF-8
// cannot be JSON: then it returns \x and, in hex, length-prefixed keys and values.
func encodeMetadata(m event.Metadata) *string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	valid := true
	for k, v := range m {
		keys = append(keys, k)
		valid = valid && utf8.ValidString(k) && utf8.ValidString(v)
	}
	slices.Sort(keys)
	var b []byte
	if !valid {
		for _, k := range keys {
			for _, s := range []string{k, m[k]} {
				b = binary.AppendUvarint(b, uint64(len(s)))
				b = append(b, s...)
			}
		}
		s := `\x` + hex.EncodeToString(b)
		return &s
	}
	for i, k := range keys {
		b = append(b, "{,"[min(i, 1)])
		b = appendJSONString(b, k)
		b = append(b, ':')
		b = appendJSONString(b, m[k])
	}
	return view(append(b, '}'))
}

func appendJSONString(b []byte, s string) []byte {
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		plain = s[i] >= 0x20 && s[i] < 0x7f && s[i] != '"' && s[i] != '\\'
	}
	if plain {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	q, _ := json.Marshal(s) // a valid string always can
	return append(b, q...)
}

var errMetadata = errors.New("postgres: metadata cannot be read: they were changed by hand")

// decodeMetadata is the inverse of encodeMetadata.
func decodeMetadata(b []byte) (event.Metadata, error) {
	m := event.Metadata{}
	code, isHex := bytes.CutPrefix(b, []byte(`\x`))
	if !isHex {
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("%w: %w", errMetadata, err)
		}
		return m, nil
	}
	b, err := hex.DecodeString(string(code))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMetadata, err)
	}
	next := func() (string, bool) {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return "", false
		}
		s := string(b[size : size+int(n)])
		b = b[size+int(n):]
		return s, true
	}
	for len(b) > 0 {
		k, ok1 := next()
		v, ok2 := next()
		if !ok1 || !ok2 {
			return nil, errMetadata
		}
		m[k] = v
	}
	return m, nil
}

// textArray returns an array as PostgreSQL reads it from text, for drivers that
// know no arrays. A nil element is NULL.
func textArray[T any](in []T, element func(T) *string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range in {
		if i > 0 {
			b.WriteByte(',')
		}
		s := element(v)
		if s == nil {
			b.WriteString("NULL")
			continue
		}
		b.WriteByte('"')
		for rest := *s; ; {
			n := strings.IndexAny(rest, `"\`)
			if n < 0 {
				b.WriteString(rest)
				break
			}
			b.WriteString(rest[:n])
			b.WriteByte('\\')
			b.WriteByte(rest[n])
			rest = rest[n+1:]
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// timeText returns t as PostgreSQL reads it from text.
func timeText(t time.Time) string {
	t = t.UTC()
	if y := t.Year(); y <= 0 {
		return fmt.Sprintf("%04d", 1-y) + t.Format("-01-02 15:04:05.999999+00") + " BC"
	}
	return t.Format("2006-01-02 15:04:05.999999+00")
}
