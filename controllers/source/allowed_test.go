package source

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

func TestSourcesOfModules(t *testing.T) {
	filters := map[string]wasmev1.FilterSpec{
		"image": {Image: "ghcr.io/a/b:v1"}, "url": {URL: "https://h/m.wasm"}, "configMap": {ConfigMap: &wasmev1.ConfigMapKey{Name: "c", Key: "k"}},
	}
	for _, row := range []struct{ allowed, refused string }{
		{"", ""}, {"image,url,configMap", ""}, {"image", "url,configMap"}, {"image,url", "configMap"}, {"configMap", "image,url"},
	} {
		var names []string
		if row.allowed != "" {
			names = strings.Split(row.allowed, ",")
		}
		for from, filter := range filters {
			t.Run(row.allowed+" and "+from, func(t *testing.T) {
				g := NewWithT(t)
				sources, err := ParseSources(names)
				g.Expect(err).NotTo(HaveOccurred())
				err = sources.check(filter)
				if !strings.Contains(row.refused, from) {
					g.Expect(err).NotTo(HaveOccurred())
					return
				}
				g.Expect(err).To(MatchError("reading spec.filter." + from + ": the operator's --allowed-sources does not list it: use " + strings.Join(names, " or ")))
				g.Expect(module.AsError(err)).To(And(HaveField("Reason", wasmev1.ReasonSourceForbidden), HaveField("Terminal", true)))
			})
		}
	}
	t.Run("of another name", func(t *testing.T) {
		_, err := ParseSources([]string{"image", "git"})
		NewWithT(t).Expect(err).To(MatchError(`"git" is no source of modules: use image, url, configMap`))
	})
}
