package sqlite

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/fairlead-dev/fairlead/event"
	zs "zombiezen.com/go/sqlite"
)

// A text is a payload: stored as text where it is text, so that SQL can look
// into it, as a blob where it is not. Nil is NULL.
type text []byte

func bindText(s *zs.Stmt, i int, b text) {
	switch {
	case b == nil:
		s.BindNull(i)
	case utf8.Valid(b) && bytes.IndexByte(b, 0) < 0:
		s.BindText(i, unsafe.String(unsafe.SliceData(b), len(b))) // the driver copies it
	default:
		s.BindBytes(i, b)
	}
}

func bindBlob(s *zs.Stmt, i int, b []byte) {
	if b == nil {
		s.BindNull(i)
		return
	}
	s.BindBytes(i, b)
}

// columnBytes returns a copy of a column, nil for NULL.
func columnBytes(s *zs.Stmt, i int) []byte {
	if s.ColumnIsNull(i) {
		return nil
	}
	b := make([]byte, s.ColumnLen(i))
	s.ColumnBytes(i, b)
	return b
}

// Times in this range fit into an int64 of nanoseconds.
var (
	minTime = time.Unix(0, -1<<63)
	maxTime = time.Unix(0, 1<<63-1)
)

// maxYear is the last year that is whole in a [time.Time].
const maxYear = 292_277_022_398

// bindTime binds t as nanoseconds since 1970, as text where it is too far away
// for that, and the zero time as NULL.
func bindTime(s *zs.Stmt, i int, t time.Time) {
	switch {
	case t.IsZero():
		s.BindNull(i)
	case t.Before(minTime) || t.After(maxTime):
		s.BindText(i, t.UTC().Format(time.RFC3339Nano))
	default:
		s.BindInt64(i, t.UnixNano())
	}
}

// columnTime is the inverse of bindTime.
func columnTime(s *zs.Stmt, i int) (time.Time, error) {
	// The type comes first: SQLite makes of text the number it begins with.
	switch s.ColumnType(i) {
	case zs.TypeNull:
		return time.Time{}, nil
	case zs.TypeText:
		return parseTime(s.ColumnText(i))
	}
	return time.Unix(0, s.ColumnInt64(i)).UTC(), nil
}

// parseTime parses what [time.Time.Format] makes of any time in UTC, also where
// the year has more digits than four, or a sign, which [time.Parse] refuses.
func parseTime(text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t.UTC(), nil
	}
	fault := fmt.Errorf("%w: time %.40q", ErrCorrupt, text)
	digits, rest, ok := strings.Cut(strings.TrimPrefix(text, "-"), "-")
	if !ok {
		return time.Time{}, fault
	}
	year, err := strconv.ParseInt(text[:len(text)-len(rest)-1], 10, 64)
	if err != nil || len(digits) < 4 || year < -maxYear || year > maxYear {
		return time.Time{}, fault
	}
	// The calendar repeats every 400 years.
	near := 2000 + (year%400+400)%400
	t, err := time.Parse(time.RFC3339Nano, fmt.Sprintf("%04d-%s", near, rest))
	if err != nil {
		return time.Time{}, fault
	}
	return t.UTC().AddDate(int(year-near), 0, 0), nil
}

// encodeMetadata returns m as a JSON object with sorted keys. What is not UTF-8
// cannot be JSON: then it returns a blob of length-prefixed keys and values.
func encodeMetadata(m event.Metadata) (b []byte, blob bool) {
	if len(m) == 0 {
		return nil, false
	}
	keys := make([]string, 0, len(m))
	valid := true
	for k, v := range m {
		keys = append(keys, k)
		valid = valid && utf8.ValidString(k) && utf8.ValidString(v)
	}
	slices.Sort(keys)
	if !valid {
		for _, k := range keys {
			for _, s := range []string{k, m[k]} {
				b = binary.AppendUvarint(b, uint64(len(s)))
				b = append(b, s...)
			}
		}
		return b, true
	}
	for i, k := range keys {
		b = append(b, "{,"[min(i, 1)])
		b = appendJSONString(b, k)
		b = append(b, ':')
		b = appendJSONString(b, m[k])
	}
	return append(b, '}'), false
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

var errMetadata = errors.New("metadata that cannot be read")

func decodeMetadata(b []byte, blob bool) (event.Metadata, error) {
	m := event.Metadata{}
	if !blob {
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("%w: %w: %w", ErrCorrupt, errMetadata, err)
		}
		return m, nil
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
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, errMetadata)
		}
		m[k] = v
	}
	return m, nil
}

// bindMetadata binds m as encodeMetadata has it.
func bindMetadata(s *zs.Stmt, i int, m event.Metadata) {
	switch b, blob := encodeMetadata(m); {
	case b == nil:
		s.BindNull(i)
	case blob:
		s.BindBytes(i, b)
	default:
		s.BindText(i, unsafe.String(unsafe.SliceData(b), len(b)))
	}
}

// columnMetadata is the inverse of bindMetadata.
func columnMetadata(s *zs.Stmt, i int) (event.Metadata, error) {
	switch t := s.ColumnType(i); t {
	case zs.TypeNull:
		return nil, nil
	default:
		return decodeMetadata(columnBytes(s, i), t == zs.TypeBlob)
	}
}
