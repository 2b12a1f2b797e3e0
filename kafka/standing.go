package kafka

// Standing returns the partitions of which no record comes any more: of topics that
// were closed or deleted. No group gives them to anybody, so every process has them,
// and the engine says which one works their lanes to the end.
func (l *Log) Standing() []int {
	if l.several == nil {
		return nil
	}
	return l.standing()
}
