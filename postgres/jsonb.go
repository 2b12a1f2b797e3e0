package postgres

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// Bounds of what is given to jsonb. PostgreSQL's own are higher (a quarter of a
// gigabyte for a string or an array; a depth that its stack allows; numbers of
// 131,072 digits), but a few bytes such as 1e131071 would come back as so many.
const (
	maxJSONB  = 64 << 20
	maxDepth  = 1000
	maxNumber = 1000 // bytes
	maxDigits = 4    // of an exponent
)

// splitJSON returns what of a document is kept as jsonb, and whether that is all of
// it: then the document comes back equal as JSON. Else it must be kept to the byte
// beside that.
//
// jsonb has no character NUL and no half surrogates: queries see U+FFFD in place
// of each. It has no -0, which is 0. For a document with a number beyond all
// bounds, nested too deeply or too large, queries see nothing: nil.
//
// It looks at each byte once, and makes no copy of what is whole. What is not JSON
// is whole: PostgreSQL is to refuse it.
func splitJSON(data []byte) (document []byte, whole bool) {
	document, whole = scanJSON(data)
	if !whole && (!json.Valid(data) || !utf8.Valid(data)) {
		return data, true
	}
	return document, whole
}

func scanJSON(data []byte) (document []byte, whole bool) {
	if len(data) > maxJSONB {
		return nil, false
	}
	var repaired []byte // data up to from, without what jsonb has not
	from, depth := 0, 0
	whole = true
	for i := 0; i < len(data); {
		switch c := data[i]; c {
		case '[', '{':
			if depth++; depth > maxDepth {
				return nil, false
			}
			i++
		case ']', '}':
			depth--
			i++
		case '"':
			for i++; i < len(data) && data[i] != '"'; {
				if data[i] != '\\' {
					i++
					continue
				}
				n, ok := escape(data[i:])
				if !ok {
					repaired = append(append(repaired, data[from:i]...), "\ufffd"...)
					from = i + n
				}
				i += n
			}
			i++
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			n, bounded, negativeZero := number(data[i:])
			if !bounded {
				return nil, false
			}
			whole = whole && !negativeZero
			i += n
		default:
			i++
		}
	}
	if from == 0 {
		return data, whole
	}
	return append(repaired, data[from:]...), false
}

// escape returns the length of the escape sequence that b begins with, and
// whether jsonb can hold what it stands for.
func escape(b []byte) (n int, ok bool) {
	r, is := escaped(b)
	switch {
	case !is:
		return min(2, len(b)), true
	case r == 0 || r >= 0xdc00 && r < 0xe000:
		return 6, false
	case r < 0xd800 || r >= 0xe000:
		return 6, true
	}
	if low, is := escaped(b[6:]); is && low >= 0xdc00 && low < 0xe000 {
		return 12, true
	}
	return 6, false
}

// escaped returns the number in the \uXXXX that b begins with.
func escaped(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// number returns the length of the number that b begins with, and whether jsonb
// holds it, or makes 0 of -0.
func number(b []byte) (n int, bounded, negativeZero bool) {
	exponent, zero := -1, true
	for n < len(b) {
		switch c := b[n]; {
		case '0' <= c && c <= '9':
			zero = zero && (c == '0' || exponent >= 0)
		case c == 'e' || c == 'E':
			exponent = n
		case c != '+' && c != '-' && c != '.':
			return n, fits(b[:n], exponent), zero && b[0] == '-'
		}
		n++
	}
	return n, fits(b, exponent), zero && b[0] == '-'
}

func fits(number []byte, exponent int) bool {
	return len(number) <= maxNumber &&
		(exponent < 0 || len(bytes.TrimLeft(number[exponent+1:], "+-0")) <= maxDigits)
}
