package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// A parallelConsumer is Confluent's parallel consumer, which
// bench/peers/parallelconsumer/Keys.java runs.
type parallelConsumer struct {
	libs, classes string
}

// parallelConsumer compiles the peer; nil, and a note, where it is not installed.
func (b *bench) parallelConsumer(ctx context.Context) (*parallelConsumer, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "bench", "peers", "parallelconsumer")
	p := &parallelConsumer{libs: filepath.Join(dir, "target", "libs", "*"), classes: filepath.Join(b.dir, "classes")}
	if found, _ := filepath.Glob(filepath.Join(dir, "target", "libs", "parallel-consumer-core-*.jar")); len(found) == 0 {
		b.note("Confluent's parallel consumer is left out: bench/peers/parallelconsumer/README.md says how to install it")
		return nil, nil
	}
	out, err := exec.CommandContext(ctx, "javac", "-cp", p.libs, "-d", p.classes, filepath.Join(dir, "Keys.java")).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("javac Keys.java: %w: %s", err, out)
	}
	return p, nil
}

// A pcSetting is how the parallel consumer is set up. Batch: records of different keys
// that one call gets; buffer: records that it holds to choose from, 0: as it chooses
// itself.
type pcSetting struct {
	batch, buffer int
	commit        string
}

func (s pcSetting) String() string {
	buffer := "default buffer"
	if s.buffer > 0 {
		buffer = fmt.Sprintf("a buffer of %d", s.buffer)
	}
	return fmt.Sprintf("batches of %d, %s, %s", s.batch, buffer, s.commit)
}

// A pcRun is what one run of it says.
type pcRun struct {
	Seconds                  float64
	Records, Bytes, Disorder int64
}

// run reads the topic so many times in one process. The first time is of code that is
// not compiled yet.
func (p *parallelConsumer) run(ctx context.Context, s *kafkaServer, topic string, count int, waitMillis, concurrency int, set pcSetting, runs int) ([]pcRun, error) {
	cmd := exec.CommandContext(ctx, "java", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", p.classes+string(os.PathListSeparator)+p.libs, "Keys",
		s.brokers[0], topic, s.name("parallel"), strconv.Itoa(count), strconv.Itoa(waitMillis), strconv.Itoa(concurrency),
		strconv.Itoa(set.batch), strconv.Itoa(set.buffer), set.commit, strconv.Itoa(runs))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the parallel consumer (%v): %w: %s", set, err, said.Bytes())
	}
	var all []pcRun
	for _, line := range splitLines(out) {
		var r pcRun
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("the parallel consumer said %q: %w", line, err)
		}
		all = append(all, r)
	}
	if len(all) != runs {
		return nil, fmt.Errorf("the parallel consumer ended after %d of %d runs", len(all), runs)
	}
	return all, nil
}
