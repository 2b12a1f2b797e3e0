// Package retail is the demo's data: the order lines of an online shop as
// events, projections of them, and the documents that these must come to. See
// data/ATTRIBUTION.md for where the data comes from and its licence (CC BY 4.0).
package retail

import (
	"bytes"
	"embed"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

//go:embed data
var files embed.FS

// What the data set has in it.
const (
	EventCount  = 541_909
	TenantCount = 38
)

// Events returns the events as JSON Lines, in global order. The caller closes it.
func Events() (io.ReadCloser, error) { return open("events.jsonl.zst") }

func open(name string) (io.ReadCloser, error) {
	data, err := files.ReadFile("data/" + name)
	if err != nil {
		return nil, err
	}
	d, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return d.IOReadCloser(), nil
}

// Attribution is the text that must go with the data.
func Attribution() string {
	data, err := files.ReadFile("data/ATTRIBUTION.md")
	if err != nil {
		panic(err) // it is compiled in
	}
	return string(data)
}
