package main

import "context"

const childEnv = "FAIRLEAD_BENCH_CHILD"

func child(context.Context, string) int              { return 0 }
func runLatency(ctx context.Context, b *bench) error { return nil }
func runNoisy(ctx context.Context, b *bench) error   { return nil }
func runMemory(ctx context.Context, b *bench) error  { return nil }
