package build

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
)

// makeTarget runs a target of the Makefile with a folder for what it makes.
func makeTarget(t *testing.T, target, dist string, variables ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "make", append([]string{"--no-print-directory", "-C", root, target, "DIST=" + dist}, variables...)...)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestMakeInstallYAML(t *testing.T) {
	for image, variables := range map[string][]string{
		"ghcr.io/wasme-io/wasme-operator:v1.2.3": {"VERSION=v1.2.3"},
		"registry.example.com:5000/op@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef": {
			"VERSION=v1.2.3", "IMAGE=registry.example.com:5000/op@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		},
	} {
		t.Run(image, func(t *testing.T) {
			dist := t.TempDir()
			makeTarget(t, "install-yaml", dist, variables...)
			text, err := os.ReadFile(filepath.Join(dist, "install.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			installed, config := objects{}, kustomize(t, "resources: [config/default]")
			if err := installed.add(string(text)); err != nil {
				t.Fatal(err)
			}
			container, err := manager(config)
			if err != nil {
				t.Fatal(err)
			}
			container["image"] = image
			for _, problem := range compare(installed, config) {
				t.Error(problem)
			}
		})
	}
}

func TestMakeChart(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ variables, values, image string }{
		{"IMAGE=ghcr.io/wasme-io/wasme-operator@" + digest, "", "ghcr.io/wasme-io/wasme-operator@" + digest},
		{"IMAGE=ghcr.io/wasme-io/wasme-operator@" + digest, "image: {repository: mirror.example.com/op}", "mirror.example.com/op@" + digest},
		{"IMAGE=ghcr.io/wasme-io/wasme-operator@" + digest, "image: {tag: v1.2.4}", "ghcr.io/wasme-io/wasme-operator:v1.2.4"},
		{"IMAGE=ghcr.io/wasme-io/wasme-operator:v1.2.3", "", "ghcr.io/wasme-io/wasme-operator:v1.2.3"},
	} {
		t.Run(c.image, func(t *testing.T) {
			dist := t.TempDir()
			makeTarget(t, "chart", dist, "VERSION=v1.2.3", c.variables)
			packaged, err := loader.Load(filepath.Join(dist, "wasme-operator-1.2.3.tgz"))
			if err != nil {
				t.Fatal(err)
			}
			if packaged.Metadata.Version != "1.2.3" || packaged.Metadata.AppVersion != "v1.2.3" {
				t.Errorf("version %s, appVersion %s", packaged.Metadata.Version, packaged.Metadata.AppVersion)
			}
			files, err := standard(c.values).renderChart(packaged)
			if err != nil {
				t.Fatal(err)
			}
			installed := objects{}
			if err := installed.add(files["wasme-operator/templates/manager.yaml"]); err != nil {
				t.Fatal(err)
			}
			container, err := manager(installed)
			if err != nil {
				t.Fatal(err)
			}
			if container["image"] != c.image {
				t.Error(container["image"])
			}
		})
	}
}

// TestMakePushChart: sign-chart signs what dist/chart.txt names.
func TestMakePushChart(t *testing.T) {
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	host, dist := strings.TrimPrefix(server.URL, "http://"), t.TempDir()
	makeTarget(t, "chart", dist, "VERSION=v1.2.3")
	makeTarget(t, "push-chart", dist, "VERSION=v1.2.3", "CHARTS=oci://"+host+"/charts", "HELM_FLAGS=--plain-http")
	name, err := os.ReadFile(filepath.Join(dist, "chart.txt"))
	if err != nil {
		t.Fatal(err)
	}
	pushed, digest, _ := strings.Cut(strings.TrimSpace(string(name)), "@")
	if pushed != host+"/charts/wasme-operator" || !regexp.MustCompile("^sha256:[0-9a-f]{64}$").MatchString(digest) {
		t.Fatalf("%q", name)
	}
	answer, err := server.Client().Get(server.URL + "/v2/charts/wasme-operator/manifests/" + digest)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Error(answer.Status)
	}
}
