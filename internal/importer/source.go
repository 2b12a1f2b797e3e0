package importer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// MaxLine is the longest line that is read, in bytes.
const MaxLine = 64 << 20

// Limits of a block: what is parsed as one, and appended in one transaction.
const (
	blockLines = 2000
	blockBytes = 2 << 20
)

// decompressed returns r, decompressed if it begins like gzip or zstd.
func decompressed(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 256<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, fmt.Errorf("zstd: %w", err)
		}
		return z, z.Close, nil
	}
	return b, func() {}, nil
}

// A block is a run of lines. The lines are slices of buf.
type block struct {
	buf    []byte
	ends   []int // of the lines in buf
	long   map[int]bool
	first  int64 // number of the first line
	err    error // why there is no block after this one; io.EOF at the end
	done   chan struct{}
	parsed []record
	faults []Fault
}

// lineReader cuts a file into blocks.
type lineReader struct {
	r    *bufio.Reader
	line int64 // number of the last line
	size int   // of the last block: the next one will be like it
}

// next returns the next block; its err is set on the last one.
func (l *lineReader) next() *block {
	b := &block{first: l.line + 1, done: make(chan struct{}), buf: make([]byte, 0, min(l.size, blockBytes)+4096)}
	for len(b.ends) < blockLines && len(b.buf) < blockBytes && b.err == nil {
		b.err = l.add(b)
	}
	l.size = len(b.buf)
	return b
}

// add reads one line into b, without its end. What is too long is cut to its
// first kilobyte and marked.
func (l *lineReader) add(b *block) error {
	start, long := len(b.buf), false
	for {
		part, err := l.r.ReadSlice('\n')
		if !long {
			b.buf = append(b.buf, part...)
		}
		// What is read on is thrown away as it comes.
		if len(b.buf)-start > MaxLine+1 {
			b.buf, long = append([]byte(nil), b.buf[:start+1024]...), true
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == nil || (errors.Is(err, io.EOF) && (len(b.buf) > start || long)) {
			l.line++
			b.buf = b.buf[:start+len(bytes.TrimRight(b.buf[start:], "\r\n"))]
			b.ends = append(b.ends, len(b.buf))
			if long {
				if b.long == nil {
					b.long = map[int]bool{}
				}
				b.long[len(b.ends)-1] = true
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("after line %d: %w", l.line, err)
		}
		return err
	}
}

// parse parses all lines of b, and closes done.
func (b *block) parse(file string) {
	defer close(b.done)
	b.parsed = make([]record, 0, len(b.ends))
	start := 0
	for i, end := range b.ends {
		text := b.buf[start:end]
		start = end
		n := b.first + int64(i)
		if b.long[i] {
			b.faults = append(b.faults, Fault{File: file, Line: n, Text: text, Cut: true,
				Reason: fmt.Errorf("the line is longer than %d MiB", MaxLine>>20)})
			continue
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		r := record{line: n, text: text}
		if err := r.parse(text); err != nil {
			b.faults = append(b.faults, Fault{File: file, Line: n, Text: text, Reason: err})
			continue
		}
		b.parsed = append(b.parsed, r)
	}
}
