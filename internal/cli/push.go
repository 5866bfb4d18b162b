package cli

import (
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/progress"
	"github.com/wasme-io/wasme-operator/internal/cli/store"
)

func newPush(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "push IMAGE",
		Short: "Push an image of the local store to its registry",
		Long:  "Pushes an image of the local store to its registry, and prints its digest. The registry keeps the layers that it has got already: a push that was interrupted goes on.",
		Example: `  wasme push registry.example.com/filters/hello:v1
  echo "$PASSWORD" | wasme push registry.example.com/filters/hello:v1 -u user --password-stdin`,
		Args: cobra.ExactArgs(1),
	}
	stores, registry := newStoreFlag(c), newRegistryFlags(a, c)
	registry.addConfig(c)
	c.ValidArgsFunction = completeImages(stores, false)
	c.RunE = func(c *cobra.Command, args []string) error {
		ref, err := registry.parseTag(args[0])
		if err != nil {
			return err
		}
		image, err := stored(stores, ref)
		if err != nil {
			return err
		}
		if err := registry.push(c.Context(), ref, image); err != nil {
			return err
		}
		return a.printDigest(image)
	}
	return c
}

// stored returns an image of the local store.
func stored(stores *storeFlag, ref name.Reference) (v1.Image, error) {
	local, err := stores.open()
	if err != nil {
		return nil, err
	}
	image, err := local.Get(ref)
	return image, explainStore(err)
}

// explainStore adds to the error about an image that the store does not have what to do about it.
func explainStore(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: build it with wasme build, or run wasme pull; wasme list shows what there is", err)
	}
	return err
}

// printDigest prints the digest of an image, for scripts.
func (a *app) printDigest(image v1.Image) error {
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, digest)
	return err
}

func newPull(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "pull IMAGE",
		Short:   "Pull an image into the local store",
		Long:    "Pulls an image into the local store, and prints its digest. Layers that are there already are not pulled again. Of an index, it pulls the image that the operator takes.",
		Example: "  wasme pull registry.example.com/filters/hello:v1",
		Args:    cobra.ExactArgs(1),
	}
	stores, registry := newStoreFlag(c), newRegistryFlags(a, c)
	registry.addConfig(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ref, err := registry.reference(args[0])
		if err != nil {
			return err
		}
		local, err := stores.open()
		if err != nil {
			return err
		}
		image, err := registry.find(c.Context(), ref)
		if err != nil {
			return err
		}
		bar := progress.Start(a.ErrOut, "Pulling")
		defer bar.End()
		if err := local.Put(c.Context(), ref, bar.Image(image)); err != nil {
			return registry.explain("pulling "+ref.Name(), ref.Context().Registry, err)
		}
		if _, err := readImage(image); err != nil {
			a.say("note: %v", err)
		}
		return a.printDigest(image)
	}
	return c
}
