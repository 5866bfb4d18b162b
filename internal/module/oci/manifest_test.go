package oci

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestManifestLists(t *testing.T) {
	for name, c := range map[string]struct{ doc, message string }{
		"as many layers as may be":    {`{"layers":[` + strings.Repeat("{},", 126) + `{}],"manifests":null}`, ""},
		"as many manifests as may be": {`{"manifests":[` + strings.Repeat("{},", 999) + `{}],"layers":[]}`, ""},
		"one layer more":              {`{"layers":[` + strings.Repeat("{},", 127) + `{}]}`, "more than 127 layers"},
		"one manifest more":           {`{"manifests":[` + strings.Repeat("{},", 1000) + `{}]}`, "more than 1000 manifests"},
		"layers that are no list":     {`{"layers":{"a":{}}}`, "not the JSON"},
		"layers that are no objects":  {`{"layers":[0]}`, "not the JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseManifest([]byte(c.doc))
			if c.message == "" {
				moduletest.Must(t, err)
				return
			}
			moduletest.WantError(t, err, wasmev1.ReasonInvalidImage, c.message)
		})
	}
}

func TestPicksTheChildOfAnIndex(t *testing.T) {
	platform := func(os, arch string) *v1.Platform { return &v1.Platform{OS: os, Architecture: arch} }
	attestation := map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	for name, c := range map[string]struct {
		manifests []v1.Descriptor
		want      int64
	}{
		"wasm":              {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "amd64")}, {Size: 2, Platform: platform("wasi", "wasm")}}, 2},
		"linux/amd64":       {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "arm64")}, {Size: 2, Platform: platform("linux", "amd64")}}, 2},
		"the first":         {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "arm64")}, {Size: 2}}, 1},
		"no attestation":    {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "amd64"), Annotations: attestation}, {Size: 2}}, 2},
		"the first of wasm": {[]v1.Descriptor{{Size: 1, Platform: platform("wasip1", "wasm")}, {Size: 2, Platform: platform("wasi", "wasm")}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := Manifest{Manifests: c.manifests}
			if got, err := m.Child(); err != nil || got.Size != c.want {
				t.Errorf("%d, %v; want %d", got.Size, err, c.want)
			}
		})
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x","platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"config":{},"layers":[{"mediaType":"application/wasm","size":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			moduletest.WantError(t, err, module.AsError(err).Reason, "image")
			return
		}
		if m.IsIndex() {
			_, _ = m.Child()
		}
		_, _ = m.wasmLayer()
		m.runtimeConfig()
		if len(m.Layers) > 0 {
			agentRefuses(m, extraction{})
			agentRefuses(m, extraction{itself: true})
		}
	})
}

func FuzzRootIDs(f *testing.F) {
	f.Add(moduletest.RuntimeConfig("root"))
	f.Add([]byte(`{"config":{"rootIds":[1]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ids, err := ParseRootIDs(data)
		if err != nil && module.AsError(err) == nil || len(ids) > maxRootIDs {
			t.Errorf("%d root ids, %v", len(ids), err)
		}
	})
}
