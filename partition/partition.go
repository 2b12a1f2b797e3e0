// Package partition says which share of the work a key belongs to: the
// partition that Kafka's own producers would choose, or one of n buckets on a
// log that has a single partition. All functions are pure.
package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Murmur2 is the 32-bit hash of Kafka's default partitioner, as a signed number
// like in its Java source. Source: apache/kafka, Utils.murmur2.
func Murmur2(key []byte) int32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(key))
	for len(key) >= 4 {
		k := binary.LittleEndian.Uint32(key)
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
		key = key[4:]
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return int32(h)
}

// ToPositive clears the sign bit. It is not an absolute value: Kafka's own
// source warns that changing that would move keys.
func ToPositive(h int32) int32 { return h & 0x7fffffff }

// Kafka returns the partition that Kafka's default partitioner gives to a
// record with this key in a topic of that many partitions. It is for records
// that have a key; a producer spreads records without one as it likes.
//
// All partitions of the topic count, also those that have no leader now: else
// keys would move while a broker is away. Kafka panics if partitions < 1.
func Kafka(key []byte, partitions int) int {
	if partitions < 1 {
		panic(fmt.Sprintf("partition: Kafka with %d partitions", partitions))
	}
	return int(ToPositive(Murmur2(key))) % partitions
}

// Bucket returns the bucket, 0 to n-1, of a key: XXH64 with seed 0 of its bytes,
// as an unsigned number, modulo n. It panics if n < 1.
//
// Checkpoints are kept by bucket, so this function is part of the stored format.
// It must never change: a key that moved would have its events applied twice or
// not at all.
//
// Modulo, and not jump hash, because of how cursors grow: from n to c*n buckets,
// bucket i splits into i, i+n, i+2n, ... and takes keys from no other. Each new
// lane can so start at the checkpoint of the one lane it came from. A bucket that
// jump hash adds takes keys from all others, which stand at different positions.
func Bucket(key string, n int) int {
	if n < 1 {
		panic(fmt.Sprintf("partition: Bucket with %d buckets", n))
	}
	return int(xxhash.Sum64String(key) % uint64(n))
}

// KeyPrefix splits a key like "tenant:key" at the first separator. Where key has
// none, or nothing before it, ok is false and rest is the whole key: such a
// record belongs to no tenant, and the caller decides what that means.
func KeyPrefix(key, sep string) (tenant, rest string, ok bool) {
	if sep == "" {
		return "", key, false
	}
	tenant, rest, ok = strings.Cut(key, sep)
	if !ok || tenant == "" {
		return "", key, false
	}
	return tenant, rest, true
}

// ErrSeparator means that a tenant cannot be the prefix of a key.
var ErrSeparator = errors.New("partition: tenant is empty or contains the separator")

// JoinKey is the inverse of [KeyPrefix]. It refuses with [ErrSeparator] what
// KeyPrefix would split elsewhere: a tenant that is empty, or in which sep
// begins. Such a key would belong to another tenant.
func JoinKey(tenant, sep, rest string) (string, error) {
	key := tenant + sep + rest
	if t, r, ok := KeyPrefix(key, sep); !ok || t != tenant || r != rest {
		return "", fmt.Errorf("join key of tenant %+q with separator %+q: %w", tenant, sep, ErrSeparator)
	}
	return key, nil
}
