package sqlite

import "testing"

const childVariable = "FAIRLEAD_SQLITE_CHILD"

var children = map[string]func() error{}

var _ testing.TB
