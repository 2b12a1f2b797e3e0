package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/importer"
	"github.com/fairlead-dev/fairlead/internal/retail"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// dataDir finds the folder of the data sets.
func dataDir(flag string) string {
	if flag != "" {
		return flag
	}
	if env := os.Getenv("FAIRLEAD_DATA"); env != "" {
		return env
	}
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			beside := filepath.Join(dir, "..", "shared", "data")
			if fi, err := os.Stat(beside); err == nil && fi.IsDir() {
				return beside
			}
			return ""
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	return ""
}

// openSet opens the events of a data set as JSON Lines; only retail-orders is
// part of the project.
func (b *bench) openSet(set string) (io.ReadCloser, error) {
	if set == "retail-orders" {
		return retail.Events()
	}
	if b.data == "" {
		return nil, fmt.Errorf("data set %s: %w: name its folder with -data or FAIRLEAD_DATA", set, os.ErrNotExist)
	}
	f, err := os.Open(filepath.Join(b.data, set, "events.jsonl.gz"))
	if err != nil {
		return nil, fmt.Errorf("data set %s: %w", set, err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data set %s: %w", set, err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// A head reads the first lines of a reader.
type head struct {
	r    *bufio.Reader
	left int // lines
	rest []byte
}

func (h *head) Read(p []byte) (int, error) {
	if len(h.rest) == 0 {
		if h.left == 0 {
			return 0, io.EOF
		}
		h.left--
		part, err := h.r.ReadBytes('\n')
		if h.rest = part; len(part) == 0 {
			return 0, err
		}
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// fill makes a database with the first limit events of a data set (0: all), and
// returns how many that are. When it returns, everything is in the one file.
func (b *bench) fill(ctx context.Context, path, set string, limit int) (events int, err error) {
	r, err := b.openSet(set)
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }()
	var in io.Reader = r
	if limit > 0 {
		in = &head{r: bufio.NewReaderSize(r, 1<<20), left: limit}
	}
	db, err := sqlite.Open(path)
	if err != nil {
		return 0, err
	}
	im := importer.Importer{Log: db}
	err = im.Import(ctx, set, in)
	if err := errors.Join(err, db.Close()); err != nil {
		return 0, err
	}
	return int(im.Counts.Appended), nil
}

// eachEvent calls f for every event of a log with one partition.
func eachEvent(ctx context.Context, log eventlog.Log, f func(e *event.Event) error) error {
	for after := event.Beginning; ; {
		page, err := log.Read(ctx, eventlog.ReadRequest{After: after, MaxEvents: 5000})
		if err != nil {
			return err
		}
		for i := range page.Events {
			if err := f(&page.Events[i]); err != nil {
				return err
			}
		}
		if after = page.Next; after >= page.Head {
			return nil
		}
	}
}

// copyFile copies a database that nobody has open, and waits until the copy is
// on the disk, so that writing it does not disturb what is measured.
func copyFile(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Sync()
}

// removeDB removes a database with what SQLite leaves beside it.
func removeDB(path string) {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		_ = os.Remove(path + suffix)
	}
}
