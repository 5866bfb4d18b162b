package moduletest

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// WantError checks an error by its reason and a part of its message; an empty
// message means that there is none.
func WantError(t *testing.T, err error, reason, message string) {
	t.Helper()
	if message == "" {
		if err != nil {
			t.Errorf("unexpected: %v", err)
		}
		return
	}
	e := module.AsError(err)
	if e == nil {
		t.Fatalf("%v is no *module.Error; want %s", err, reason)
	}
	if e.Reason != reason || !strings.Contains(e.Message, message) {
		t.Errorf("%s: %s; want %s: …%s…", e.Reason, e.Message, reason, message)
	}
}

// Must fails the test on an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// SHA256 returns the digest of content, 64 hex.
func SHA256[T string | []byte](content T) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// WantFiles checks that a folder has these files, by relative paths, and no others.
func WantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	var got []string
	Must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			got = append(got, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("files %q, not %q", got, want)
	}
}

// Gather returns a collector's values, and the counts of histograms, by name and label values.
func Gather(t *testing.T, collector prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	families, err := registry.Gather()
	Must(t, err)
	found := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			series := []string{family.GetName()}
			for _, label := range metric.GetLabel() {
				series = append(series, label.GetValue())
			}
			found[strings.Join(series, " ")] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return found
}
