package cli

import (
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// completion returns what a shell offers for an argument or a flag.
type completion = func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// filterDeployments completes the name of one FilterDeployment.
func (k *cluster) filterDeployments(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	in, namespace, err := k.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var list wasmev1.FilterDeploymentList
	if err := in.List(c.Context(), &list, client.InNamespace(namespace)); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return beginning(begun, names), cobra.ShellCompDirectiveNoFileComp
}

// namespaces completes the flag -n.
func (k *cluster) namespaces(c *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	in, _, err := k.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := in.List(c.Context(), list); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return beginning(begun, names), cobra.ShellCompDirectiveNoFileComp
}

// completeImages completes the names of images of the local store. Files are offered, too,
// where an argument may be one.
func completeImages(stores *storeFlag, files bool) completion {
	directive := cobra.ShellCompDirectiveNoFileComp
	if files {
		directive = cobra.ShellCompDirectiveDefault
	}
	return func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		local, err := stores.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		entries, err := local.List()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Reference)
		}
		return beginning(begun, names), directive
	}
}

func beginning(begun string, names []string) []string {
	var found []string
	for _, name := range names {
		if strings.HasPrefix(name, begun) {
			found = append(found, name)
		}
	}
	return found
}
