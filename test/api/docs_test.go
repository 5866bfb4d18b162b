package api

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/internal/render"
)

var (
	// inDocs is a manifest in a page: a block of its own, or input of a command.
	inDocs = regexp.MustCompile("(?sm)^ *```yaml\n(.*?)^ *```$|<<'YAML'\n(.*?)^YAML$")
	// notServed are the groups in the docs that this API server does not know, and what is only proposed.
	notServed = regexp.MustCompile(`(?m)^apiVersion: .*(\.istio|\.fluxcd|argoproj|\.config\.k8s)\.io/|^kind: ClusterFilterDeployment$`)
)

var _ = Describe("the docs", func() {
	It("have manifests that are accepted strictly, and hold nothing that the operator refuses", func(ctx context.Context) {
		strict := client.WithFieldValidation(k8s, metav1.FieldValidationStrict)
		accepted := 0
		for place, manifest := range manifestsInDocs() {
			object := object(manifest)
			ensureNamespaceOf(ctx, object)
			Expect(strict.Create(ctx, object, client.DryRunAll)).To(Succeed(), place)
			if object.GetKind() == "FilterDeployment" {
				Expect(render.Check(typed(object).Spec)).To(Succeed(), place)
			}
			accepted++
		}
		Expect(accepted).To(BeNumerically(">=", 30), "manifests in the docs")
	})
})

func ensureNamespaceOf(ctx context.Context, object client.Object) {
	GinkgoHelper()
	if namespace := object.GetNamespace(); namespace != "" {
		ensureNamespace(ctx, namespace)
	}
}

// manifestsInDocs returns the manifests in the README and in docs/, by their place. Other YAML there is a part of one.
func manifestsInDocs() map[string]string {
	GinkgoHelper()
	found := map[string]string{}
	for _, path := range append(markdownUnder("../../docs"), "../../README.md") {
		page, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		for n, block := range inDocs.FindAllStringSubmatch(string(page), -1) {
			for i, manifest := range strings.Split(block[1]+block[2], "\n---\n") {
				if strings.HasPrefix(manifest, "apiVersion:") && !notServed.MatchString(manifest) {
					found[fmt.Sprintf("%s, block %d, manifest %d", path, n+1, i+1)] = manifest
				}
			}
		}
	}
	return found
}

func markdownUnder(folder string) []string {
	GinkgoHelper()
	var paths []string
	Expect(filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	})).To(Succeed())
	return paths
}
