package image

import (
	"encoding/json"
	"fmt"
)

// runtimeConfig is wasme's runtime-config.json.
type runtimeConfig struct {
	// Type is that of the proxy.
	Type string `json:"type"`
	// ABIVersions are names of commits of the ABI's specification. Nobody reads them any more:
	// the versions that a module exports count.
	ABIVersions []string       `json:"abiVersions"`
	Config      filterSettings `json:"config"`
}

type filterSettings struct {
	RootIDs []string `json:"rootIds"`
}

const (
	envoyProxy = "envoy_proxy"
	// wasmeABI is what wasme 0.0.33 wrote for the proxies of its last years.
	wasmeABI = "v0-097b7f2e4cc1fb490cc1943d0d633655ac3c522f"
)

// NewRuntimeConfig returns a runtime configuration as JSON.
func NewRuntimeConfig(rootIDs ...string) []byte {
	config, err := json.Marshal(runtimeConfig{
		Type: envoyProxy, ABIVersions: []string{wasmeABI}, Config: filterSettings{RootIDs: append([]string{}, rootIDs...)},
	})
	if err != nil {
		panic(err) // strings are always JSON
	}
	return config
}

// CheckRuntimeConfig reports why content is not a runtime configuration; nil when it is.
func CheckRuntimeConfig(content []byte) error {
	_, err := parseRuntimeConfig(content)
	return err
}

func parseRuntimeConfig(content []byte) (*runtimeConfig, error) {
	var rc runtimeConfig
	if err := json.Unmarshal(content, &rc); err != nil {
		return nil, fmt.Errorf("it is not the JSON of a runtime configuration ({\"type\":\"envoy_proxy\",\"abiVersions\":[],\"config\":{\"rootIds\":[]}}): %w", err)
	}
	if rc.Type != envoyProxy {
		return nil, fmt.Errorf("its type is %q: set it to %q", rc.Type, envoyProxy)
	}
	return &rc, nil
}
