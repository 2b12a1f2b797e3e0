// Package assets is what the examples about an asset store have in common: its events,
// the assets that exist, and what each tenant stores.
package assets

import (
	"github.com/fairlead-dev/fairlead"
)

// A Stored is the payload of AssetUploaded and AssetReplaced. Their stream is
// the asset.
type Stored struct {
	Size   int64 `json:"size"` // bytes, all of the asset
	Change int64 `json:"change"`
}

// A Deleted is the payload of AssetDeleted.
type Deleted struct {
	Change int64 `json:"change"`
}

// An Asset is the document of an asset that exists.
type Asset struct {
	Size int64 `json:"size"`
}

// Assets are the assets that exist, by tenant and stream.
var Assets = fairlead.NewProjection("assets",
	fairlead.On("AssetUploaded", stored),
	fairlead.On("AssetReplaced", stored),
	fairlead.On("AssetDeleted", func(*Asset, fairlead.Event[Deleted]) error { return fairlead.ErrDelete }),
)

func stored(a *Asset, e fairlead.Event[Stored]) error {
	a.Size = e.Data.Size
	return nil
}
