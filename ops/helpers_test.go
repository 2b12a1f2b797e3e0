package ops_test

import (
	"context"
	"errors"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

var errDown = errors.New("no route to host")

type downStore struct{ *memstore.Store }

func (*downStore) View(context.Context, func(store.Tx) error) error { return errDown }
func (*downStore) Revision(context.Context) (int64, error)          { return 0, errDown }
