package cli

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// An output is a file in the making, or stdout. A file gets its name when it is
// complete.
type output struct {
	io.Writer
	closers []func() error // in order
	discard func()
}

// create makes the output of a command: "" and "-" are stdout, the endings .gz
// and .zst compress.
func create(name string, stdout io.Writer) (*output, error) {
	o := &output{discard: func() {}}
	w := stdout
	var file *os.File
	if name != "" && name != "-" {
		var err error
		if file, err = os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*"); err != nil {
			return nil, fmt.Errorf("create %s: %w", name, err)
		}
		w = file
		o.discard = func() { _ = file.Close(); _ = os.Remove(file.Name()) }
	}
	b := bufio.NewWriterSize(w, 256<<10)
	o.Writer = b
	switch {
	case strings.HasSuffix(name, ".gz"):
		z := gzip.NewWriter(b)
		o.Writer, o.closers = z, append(o.closers, z.Close)
	case strings.HasSuffix(name, ".zst"):
		z, err := zstd.NewWriter(b)
		if err != nil {
			o.discard()
			return nil, fmt.Errorf("create %s: %w", name, err)
		}
		o.Writer, o.closers = z, append(o.closers, z.Close)
	}
	o.closers = append(o.closers, b.Flush)
	if file != nil {
		o.closers = append(o.closers,
			func() error { return file.Chmod(0o644) },
			file.Close,
			func() error { return os.Rename(file.Name(), name) })
	}
	return o, nil
}

// finish completes the output; after an error nothing is left of a file.
func (o *output) finish(err error) error {
	for _, c := range o.closers {
		if err == nil {
			err = c()
		}
	}
	if err != nil {
		o.discard()
	}
	return err
}

// interruptible returns a reader of r that gives up when ctx ends. What is being
// read from r at that time is waited for by nobody: it ends with the process.
// It is for stdin, whose reads cannot be ended in any other way.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(pw, struct{ io.Reader }{r}, make([]byte, 256<<10))
		_ = pw.CloseWithError(err) // nil is io.EOF
	}()
	context.AfterFunc(ctx, func() { _ = pr.CloseWithError(ctx.Err()) })
	return pr
}
