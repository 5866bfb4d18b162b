package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/pmezard/go-difflib/difflib"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// follow calls look with each state of the FilterDeployments in a namespace (all namespaces
// when it is empty), or of the one with a name, from the present one on, until look returns
// true or an error. It reconnects by itself. gone says that the FilterDeployment was deleted.
func follow(ctx context.Context, c client.WithWatch, at client.ObjectKey, look func(fd *wasmev1.FilterDeployment, gone bool) (done bool, err error)) error {
	if err := canFollow(ctx, c, at); err != nil {
		return err
	}
	_, err := watchtools.UntilWithSync(ctx, listWatch(c, at), &wasmev1.FilterDeployment{}, nil, func(event watch.Event) (bool, error) {
		fd, is := event.Object.(*wasmev1.FilterDeployment)
		if !is || event.Type == watch.Bookmark {
			return false, nil
		}
		return look(fd, event.Type == watch.Deleted)
	})
	return err
}

// canFollow lists and watches once. What reconnects by itself takes a missing right for an
// interruption, and would try forever.
func canFollow(ctx context.Context, c client.WithWatch, at client.ObjectKey) error {
	var list wasmev1.FilterDeploymentList
	if err := c.List(ctx, &list, followed(at, metav1.ListOptions{})); err != nil {
		return explain(ctx, "listing the FilterDeployments", err)
	}
	watching, err := c.Watch(ctx, &wasmev1.FilterDeploymentList{}, followed(at, metav1.ListOptions{ResourceVersion: list.ResourceVersion}))
	if err != nil {
		return explain(ctx, "watching the FilterDeployments", err)
	}
	watching.Stop()
	return nil
}

func listWatch(c client.WithWatch, at client.ObjectKey) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, raw metav1.ListOptions) (runtime.Object, error) {
			var list wasmev1.FilterDeploymentList
			return &list, c.List(ctx, &list, followed(at, raw))
		},
		WatchFuncWithContext: func(ctx context.Context, raw metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, &wasmev1.FilterDeploymentList{}, followed(at, raw))
		},
	}
}

// followed narrows options to what is followed.
func followed(at client.ObjectKey, raw metav1.ListOptions) *client.ListOptions {
	if at.Name != "" {
		raw.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, at.Name).String()
	}
	return &client.ListOptions{Namespace: at.Namespace, Raw: &raw}
}

// errDeleted is what following a FilterDeployment ends with when someone deletes it.
var errDeleted = errors.New("it was deleted")

// findFilterDeployment reads a FilterDeployment. The error suggests what may have been meant.
func findFilterDeployment(ctx context.Context, c client.Client, at client.ObjectKey) (*wasmev1.FilterDeployment, error) {
	var fd wasmev1.FilterDeployment
	err := c.Get(ctx, at, &fd)
	if apierrors.IsNotFound(err) {
		return nil, unknown(ctx, c, at)
	}
	return &fd, explain(ctx, "reading FilterDeployment "+at.Name, err)
}

// unknown returns the error about a FilterDeployment that does not exist.
func unknown(ctx context.Context, c client.Client, at client.ObjectKey) error {
	var list wasmev1.FilterDeploymentList
	if c.List(ctx, &list) != nil { // the user may not be allowed to look into all namespaces
		_ = c.List(ctx, &list, client.InNamespace(at.Namespace)) // a suggestion can be left out
	}
	var names []string
	for i := range list.Items {
		switch fd := &list.Items[i]; {
		case fd.Namespace == at.Namespace:
			names = append(names, fd.Name)
		case fd.Name == at.Name:
			return fmt.Errorf("namespace %s has no FilterDeployment %s, but namespace %s has: add -n %s", at.Namespace, at.Name, fd.Namespace, fd.Namespace)
		}
	}
	return fmt.Errorf("namespace %s has no FilterDeployment %s%s", at.Namespace, at.Name, suggestion(at.Name, names, "see wasme status -A"))
}

// minRatio is how alike two names must be for one to be taken for a misspelling of the other.
const minRatio = 0.6

// suggestion asks whether the known name that is most like a wrong one was meant. Without
// one, it gives other advice.
func suggestion(wrong string, known []string, otherwise string) string {
	best, ratio := "", minRatio
	for _, name := range known {
		if r := difflib.NewMatcher(letters(wrong), letters(name)).Ratio(); r >= ratio {
			best, ratio = name, r
		}
	}
	if best == "" {
		return ": " + otherwise
	}
	return fmt.Sprintf(": did you mean %s?", best)
}

func letters(text string) []string {
	var all []string
	for _, letter := range text {
		all = append(all, string(letter))
	}
	return all
}
