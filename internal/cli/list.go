package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/store"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
)

// storeFlag is the flag for the folder of the local store.
type storeFlag struct{ dir string }

func newStoreFlag(c *cobra.Command) *storeFlag {
	s := &storeFlag{}
	c.Flags().StringVar(&s.dir, "store", "", "folder of the local store (default ~/.wasme/store)")
	return s
}

func (s *storeFlag) open() (*store.Store, error) {
	if s.dir != "" {
		return store.Open(s.dir)
	}
	dir, err := ownFolder("store")
	if err != nil {
		return nil, fmt.Errorf("finding the local store: %w: set --store", err)
	}
	return store.Open(dir)
}

// ownFolder returns the path of a folder in ~/.wasme.
func ownFolder(name string) (string, error) {
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".wasme", name), err
}

// listed is an image in a list.
type listed struct {
	Name    string     `json:"name"`
	Tag     string     `json:"tag"`
	Size    int64      `json:"sizeBytes"`
	Digest  string     `json:"digest"`
	Updated *time.Time `json:"updated,omitempty"`
	// Dir is the folder of the store; empty for images at a registry.
	Dir string `json:"dir,omitempty"`
}

func newList(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the images of the local store, or of a registry",
		Example: `  wasme list
  wasme list --published --server registry.example.com --search hello`,
		Args: cobra.NoArgs,
	}
	stores, registry, format := newStoreFlag(c), newRegistryFlags(a, c), newOutput(c, "wide")
	var wide, showDir, published bool
	var search, server string
	c.Flags().BoolVarP(&wide, "wide", "w", false, "show whole digests; the same as -o wide")
	c.Flags().BoolVarP(&showDir, "show-dir", "d", false, "show the folder of the local store")
	c.Flags().BoolVar(&published, "published", false, "list the images of a registry (--server)")
	c.Flags().StringVarP(&server, "server", "s", "", "registry whose images --published lists")
	c.Flags().StringVar(&search, "search", "", "list only images whose name contains this")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if wide && format.format == "" {
			format.format = "wide"
		}
		images, err := list(c.Context(), stores, registry, published, server, search)
		if len(images) == 0 && err != nil {
			return err
		}
		for i := range images {
			if !showDir {
				images[i].Dir = ""
			}
		}
		return errors.Join(format.print(a, images, func() *metav1.Table { return listTable(images, format.wide(), showDir) }), err)
	}
	return c
}

// list returns the images whose name contains a text. With an error, it returns those that
// are not damaged.
func list(ctx context.Context, stores *storeFlag, registry *registryFlags, published bool, server, search string) ([]listed, error) {
	switch {
	case published && server == "":
		return nil, misused("--published needs a registry: set --server")
	case published:
		return registry.catalog(ctx, server, search)
	}
	return listLocal(stores, search)
}

func listLocal(stores *storeFlag, search string) ([]listed, error) {
	local, err := stores.open()
	if err != nil {
		return nil, err
	}
	entries, damage := local.List()
	images := make([]listed, 0, len(entries))
	for _, entry := range entries {
		ref, err := name.ParseReference(entry.Reference)
		if err != nil || !strings.Contains(ref.Context().Name(), search) {
			continue // another tool's, or not looked for
		}
		image := listed{Name: ref.Context().Name(), Tag: ref.Identifier(), Size: entry.SizeBytes, Digest: entry.Digest.String(), Dir: local.Dir()}
		if !entry.Updated.IsZero() {
			image.Updated = &entry.Updated
		}
		images = append(images, image)
	}
	return images, damage
}

// shortDigest is how many digits of a digest are shown.
const shortDigest = 8

func listTable(images []listed, wide, showDir bool) *metav1.Table {
	columns := []string{"Name", "Tag", "Size", "SHA", "Updated"}
	if showDir {
		columns = append(columns, "Dir")
	}
	table := view.NewTable(columns...)
	for _, image := range images {
		sha := strings.TrimPrefix(image.Digest, "sha256:")
		if !wide {
			sha = sha[:min(shortDigest, len(sha))]
		}
		updated := "<unknown>"
		if image.Updated != nil {
			updated = duration.HumanDuration(time.Since(*image.Updated)) + " ago"
		}
		cells := []string{image.Name, image.Tag, view.Size(image.Size), sha, updated}
		if showDir {
			cells = append(cells, image.Dir)
		}
		view.AddRow(table, cells...)
	}
	return table
}

// catalog lists the images of a registry whose name contains a text, whatever is in them.
func (r *registryFlags) catalog(ctx context.Context, server, search string) ([]listed, error) {
	host, err := r.registry(server)
	if err != nil {
		return nil, err
	}
	with, err := r.remote(ctx)
	if err != nil {
		return nil, err
	}
	repositories, err := remote.Catalog(ctx, host, with...)
	if err != nil {
		return nil, r.explain("listing the images of "+server, host, err)
	}
	images := []listed{}
	for _, path := range repositories {
		repository := host.Repo(path)
		if !strings.Contains(repository.Name(), search) {
			continue
		}
		found, err := tags(repository, with)
		if err != nil {
			return nil, r.explain("listing the tags of "+repository.Name(), host, err)
		}
		images = append(images, found...)
	}
	return images, nil
}

// tags returns the images of a repository. Registries keep the names of repositories whose
// images were deleted, and answer that there are none.
func tags(repository name.Repository, with []remote.Option) ([]listed, error) {
	tags, err := remote.List(repository, with...)
	switch {
	case statusOf(err) == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, err
	}
	var images []listed
	for _, tag := range tags {
		found, err := remote.Get(repository.Tag(tag), with...)
		switch {
		case statusOf(err) == http.StatusNotFound:
			continue // deleted since
		case err != nil:
			return nil, err
		}
		size, err := publishedSize(found)
		if err != nil {
			return nil, err
		}
		images = append(images, listed{Name: repository.Name(), Tag: tag, Size: size, Digest: found.Digest.String()})
	}
	return images, nil
}

// publishedSize returns the bytes of an image's layers and configuration; zero for an index.
func publishedSize(found *remote.Descriptor) (int64, error) {
	if found.MediaType.IsIndex() {
		return 0, nil
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(found.Manifest))
	if err != nil {
		return 0, err
	}
	return image.Size(manifest), nil
}

func newTag(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "tag SOURCE TARGET",
		Short:   "Give an image of the local store another name",
		Example: "  wasme tag registry.example.com/filters/hello:v1 registry.example.com/filters/hello:stable",
		Args:    cobra.ExactArgs(2),
	}
	stores := newStoreFlag(c)
	c.ValidArgsFunction = completeImages(stores, false)
	c.RunE = func(c *cobra.Command, args []string) error {
		source, err := parseReference(args[0])
		if err != nil {
			return err
		}
		target, err := (&registryFlags{}).parseTag(args[1])
		if err != nil {
			return err
		}
		local, err := stores.open()
		if err != nil {
			return err
		}
		found, err := local.Get(source)
		if err != nil {
			return explainStore(err)
		}
		if err := local.Put(c.Context(), target, found); err != nil {
			return err
		}
		a.say("tagged %s as %s", source.Name(), target.Name())
		return nil
	}
	return c
}
