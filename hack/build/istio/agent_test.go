package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"istio.io/istio/pkg/wasm"
)

// agentImages are made by internal/module/oci, which says of each whether
// pilot-agent takes its module.
const agentImages = "../../../internal/module/oci/testdata/agent/*.json"

type agentImage struct {
	Refuses  string            `json:"refuses"`
	SHA256   string            `json:"sha256"`
	Manifest string            `json:"manifest"`
	Blobs    map[string][]byte `json:"blobs"`
}

// TestPilotAgentTakesWhatItIsSaidTo pulls each image as pilot-agent does. It
// takes the module when it ends up with the very same bytes.
func TestPilotAgentTakesWhatItIsSaidTo(t *testing.T) {
	paths, err := filepath.Glob(agentImages)
	if err != nil {
		t.Fatal(err)
	}
	taken, refused := 0, 0
	for _, file := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			image := readImage(t, file)
			content, err := image.fetch(t)
			if takes := err == nil && digest(content) == image.SHA256; takes != (image.Refuses == "") {
				t.Errorf("it takes the module: %v (%v); internal/module/oci says %q", takes, err, image.Refuses)
			}
			if image.Refuses == "" {
				taken++
			} else {
				refused++
			}
		})
	}
	if taken == 0 || refused == 0 {
		t.Errorf("%d images to take and %d to refuse in %s", taken, refused, agentImages)
	}
}

func readImage(t *testing.T, file string) agentImage {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var image agentImage
	if err := json.Unmarshal(text, &image); err != nil {
		t.Fatal(err)
	}
	return image
}

// fetch returns what pilot-agent's fetcher makes of the image; where an image
// makes it panic, that is the error.
func (image agentImage) fetch(t *testing.T) (content []byte, err error) {
	t.Helper()
	server := httptest.NewServer(image)
	defer server.Close()
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	fetcher := wasm.NewImageFetcher(t.Context(), wasm.ImageFetcherOption{PullSecret: []byte("{}")})
	manifest := digest([]byte(image.Manifest))
	binary, actual, err := fetcher.PrepareFetch(strings.TrimPrefix(server.URL, "http://") + "/filter@sha256:" + manifest)
	if err != nil || actual != manifest {
		t.Fatalf("the manifest was not fetched: %s, %v", actual, err)
	}
	return binary()
}

// ServeHTTP is a registry that has nothing but the image.
func (image agentImage) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := path.Base(req.URL.Path)
	blob, isBlob := image.Blobs[name]
	switch {
	case req.URL.Path == "/v2/":
	case name == "sha256:"+digest([]byte(image.Manifest)):
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		blob = []byte(image.Manifest)
	case !isBlob:
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(blob) // the client may refuse it
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
