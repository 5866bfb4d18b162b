package oci

import (
	"encoding/json"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// Bounds of an image's runtime configuration: those of status.module, where
// its root ids go, and what a file of that kind can sensibly weigh.
const (
	maxRuntimeConfigBytes = 64 << 10
	maxRootIDs            = 64
	maxRootIDLength       = 256
)

// runtimeConfig is runtime-config.json, which wasme puts into an image. The ABI
// versions that it lists are left aside: those that the module exports count.
type runtimeConfig struct {
	Config struct {
		RootIDs []string `json:"rootIds"`
	} `json:"config"`
}

// ParseRootIDs returns the root ids that a runtime configuration lists. The error is a
// *module.Error with the reason InvalidImage or TooLarge.
func ParseRootIDs(data []byte) ([]string, error) {
	var rc runtimeConfig
	if err := json.Unmarshal(data, &rc); err != nil {
		return nil, module.Terminal(wasmev1.ReasonInvalidImage, "reading the image's runtime configuration: it is not the JSON that wasme writes ({\"config\":{\"rootIds\":[…]}}): build the image again")
	}
	ids := rc.Config.RootIDs
	if len(ids) > maxRootIDs {
		return nil, module.Terminal(wasmev1.ReasonTooLarge, "reading the image's runtime configuration: it lists %d root ids, at most %d can be used", len(ids), maxRootIDs)
	}
	for _, id := range ids {
		if len(id) > maxRootIDLength {
			return nil, module.Terminal(wasmev1.ReasonTooLarge, "reading the image's runtime configuration: a root id has %d bytes, at most %d can be used", len(id), maxRootIDLength)
		}
	}
	return ids, nil
}
