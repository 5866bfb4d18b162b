package v1_test

import (
	"encoding/json"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Names of revisions are hashes of this JSON: one that changes with a release
// would give every FilterDeployment a new revision.
func TestJSONStaysWhatItWasBeforeFieldsWereAdded(t *testing.T) {
	for want, value := range map[string]any{
		`{"id":"my-filter","image":"ghcr.io/acme/add-header:v1","config":{"a":1},"rootID":"r","patchContext":"gateway","failStrategy":"FailOpen","imagePullOptions":{"pullSecret":"s","plainHttp":true}}`: wasmev1.FilterSpec{
			ID: "my-filter", Image: "ghcr.io/acme/add-header:v1", RootID: "r",
			Config:       &wasmev1.Configuration{Raw: json.RawMessage(`{"a":1}`)},
			PatchContext: wasmev1.PatchContextGateway, FailStrategy: wasmev1.FailOpen,
			ImagePullOptions: &wasmev1.ImagePullOptions{PullSecret: "s", PlainHTTP: true},
		},
		`{"reference":"r","manifestDigest":"sha256:d","sha256":"s","sizeBytes":7,"abiVersions":["0.2.1"],"rootIDs":["x"]}`: wasmev1.ModuleStatus{
			Reference: "r", ManifestDigest: "sha256:d", SHA256: "s", SizeBytes: new(int64(7)),
			ABIVersions: []string{"0.2.1"}, RootIDs: []string{"x"},
		},
	} {
		got, err := json.Marshal(value)
		if err != nil || string(got) != want {
			t.Errorf("%s\nnot %s (%v)", got, want, err)
		}
	}
}
