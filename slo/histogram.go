package slo

import (
	"iter"
	"math"
	"math/bits"
	"time"
)

// A Histogram counts durations in buckets of microseconds: exact below 128 µs,
// then 64 buckets for each doubling, so none is wider than 1/64 (1.6 %) of its
// lower end. It holds up to 9.5 hours; longer ones count as the last bucket, and
// Max is always exact.
//
// It is our own, because the usual library keeps one flat array: 26 KiB at two
// digits for this range. Here a doubling takes 256 bytes once it is used, so a
// typical histogram has 1 to 2 KiB, and never more than 8 KiB: thirty of them in
// each of hundreds of windows are affordable.
//
// The zero Histogram is empty and ready to use. It must not be copied, and is not
// safe for use by several goroutines at once. Record allocates when a doubling is
// first used, and not again: Reset keeps those that were in use.
type Histogram struct {
	count    uint64
	negative uint64
	sum      time.Duration
	max      time.Duration
	octaves  [octaves]*[subBuckets]uint32
}

const (
	subBits    = 6
	subBuckets = 1 << subBits
	octaves    = 30
	lastBucket = octaves*subBuckets - 1
)

// bucketOf returns the bucket of v microseconds. The first two octaves are exact:
// 0 to 63 and 64 to 127.
func bucketOf(v uint64) int {
	shift := max(bits.Len64(v)-subBits-1, 0)
	return min(shift<<subBits+int(v>>shift), lastBucket)
}

// upperEnd returns the longest duration of a bucket.
func upperEnd(bucket int) time.Duration {
	shift := max(bucket>>subBits-1, 0)
	next := uint64(bucket-shift<<subBits+1) << shift
	return time.Duration(next)*time.Microsecond - 1
}

// Record counts d. A negative d, which clocks that differ make, counts as 0 and
// in Negative.
func (h *Histogram) Record(d time.Duration) { h.RecordN(d, 1) }

// RecordN counts d n times.
func (h *Histogram) RecordN(d time.Duration, n int) {
	if d < 0 {
		h.negative += uint64(n)
		d = 0
	}
	h.count += uint64(n)
	h.max = max(h.max, d)
	if d > 0 && int64(n) > (math.MaxInt64-int64(h.sum))/int64(d) {
		h.sum = math.MaxInt64
	} else {
		h.sum += d * time.Duration(n)
	}
	h.add(bucketOf(uint64(d/time.Microsecond)), uint32(n))
}

func (h *Histogram) add(bucket int, n uint32) {
	o := &h.octaves[bucket>>subBits]
	if *o == nil {
		*o = new([subBuckets]uint32)
	}
	c := &(*o)[bucket&(subBuckets-1)]
	*c += min(n, math.MaxUint32-*c) // a full bucket stays full
}

// Merge adds what o has counted to h.
func (h *Histogram) Merge(o *Histogram) {
	h.count += o.count
	h.negative += o.negative
	h.max = max(h.max, o.max)
	if h.sum += o.sum; h.sum < 0 {
		h.sum = math.MaxInt64
	}
	for i, octave := range o.octaves {
		if octave == nil {
			continue
		}
		for j, n := range octave {
			if n > 0 {
				h.add(i<<subBits|j, n)
			}
		}
	}
}

// Reset empties h. It keeps the memory of what was in use since the last Reset.
func (h *Histogram) Reset() {
	for i, octave := range h.octaves {
		if octave == nil {
			continue
		}
		if *octave == [subBuckets]uint32{} {
			h.octaves[i] = nil
		} else {
			clear(octave[:])
		}
	}
	h.count, h.negative, h.sum, h.max = 0, 0, 0, 0
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.count }

// Negative returns how many of them were negative.
func (h *Histogram) Negative() uint64 { return h.negative }

// Max returns the longest, exactly; 0 where there is none.
func (h *Histogram) Max() time.Duration { return h.max }

// Sum returns the sum of all; it stops at the largest Duration (292 years).
func (h *Histogram) Sum() time.Duration { return h.sum }

// Quantile returns a duration that at least the fraction q (0 to 1) of those
// recorded do not exceed: the longest of the bucket that holds the exact answer,
// so up to 1.6 % (or 1 µs) more than it and never less; at most Max. It is 0
// where nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	if !(q > 0) { // so that NaN is 0 too
		q = 0
	}
	rank := uint64(math.Ceil(min(q, 1) * float64(h.count)))
	rank = min(max(rank, 1), h.count)
	if rank == h.count {
		return h.max
	}
	seen := uint64(0)
	for bucket, n := range h.buckets() {
		if seen += n; seen >= rank && bucket < lastBucket {
			return min(upperEnd(bucket), h.max)
		}
	}
	return h.max
}

// Above returns how many durations were longer than d. Those in d's own bucket,
// at most 1.6 % longer, do not count.
func (h *Histogram) Above(d time.Duration) (n uint64) {
	own := -1
	if d >= 0 {
		own = bucketOf(uint64(d / time.Microsecond))
	}
	for bucket, c := range h.buckets() {
		if bucket > own {
			n += c
		}
	}
	return n
}

// Buckets yields the buckets that are in use by rising duration: the longest
// duration of each, and how many it has counted.
func (h *Histogram) Buckets() iter.Seq2[time.Duration, uint64] {
	return func(yield func(time.Duration, uint64) bool) {
		for bucket, n := range h.buckets() {
			if !yield(upperEnd(bucket), n) {
				return
			}
		}
	}
}

func (h *Histogram) buckets() iter.Seq2[int, uint64] {
	return func(yield func(int, uint64) bool) {
		for i, octave := range h.octaves {
			if octave == nil {
				continue
			}
			for j, n := range octave {
				if n > 0 && !yield(i<<subBits|j, uint64(n)) {
					return
				}
			}
		}
	}
}
