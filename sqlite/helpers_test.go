package sqlite

import (
	"testing"
	"time"

	zs "zombiezen.com/go/sqlite"
)

// shell opens a connection as another program would.
func shell(t testing.TB, path string) *conn {
	t.Helper()
	c, err := zs.OpenConn(path, zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	c.SetBusyTimeout(5 * time.Second)
	return &conn{Conn: c}
}
