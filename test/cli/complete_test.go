package cli_test

import (
	"bytes"
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/cli"
)

var _ = Describe("Completion", func() {
	// completions returns what a shell offers for the last argument.
	completions := func(ctx context.Context, args ...string) string {
		var out bytes.Buffer
		cli.Run(ctx, append([]string{cobraRequest}, args...), genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &out, ErrOut: GinkgoWriter})
		return out.String()
	}

	It("offers the FilterDeployments of the namespace, and the namespaces", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		createFilterDeployment(ctx, namespace, "hello", "x")
		createFilterDeployment(ctx, namespace, "other", "x")
		for _, command := range [][]string{{"status"}, {"rollout", "undo"}} {
			args := append(command, "-n", namespace, "--kubeconfig", kubeconfig)
			Expect(completions(ctx, append(args, "")...)).To(HavePrefix("hello\nother\n"))
			Expect(completions(ctx, append(args, "he")...)).To(And(HavePrefix("hello\n"), Not(ContainSubstring("other"))))
		}
		Expect(completions(ctx, "status", "--kubeconfig", kubeconfig, "-n", namespace[:len(namespace)-1])).To(HavePrefix(namespace + "\n"))
	})

	It("offers nothing where there is no cluster", func(ctx context.Context) {
		Expect(completions(ctx, "status", "--kubeconfig", "/none", "")).To(Equal(":1\n"))
	})
})

// cobraRequest is the command with which the scripts of cobra ask for completions.
const cobraRequest = "__complete"
