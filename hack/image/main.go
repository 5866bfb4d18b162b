// Command image makes the operator's image of static binaries of the manager, without
// a container engine. The same binaries give the same digest on any machine.
//
//	image archive NAME FILE BINARY    writes an archive for docker load and kind load
//	image digest BINARY...            prints the digest that a push would have
//	image push NAME BINARY...         pushes one image for all platforms, prints NAME with its digest
//
// The credentials of a push are Docker's. Registries on this machine are asked over plain HTTP.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, arguments []string) error {
	switch {
	case len(arguments) == 4 && arguments[0] == "archive":
		return archive(arguments[1], arguments[2], arguments[3])
	case len(arguments) >= 2 && arguments[0] == "digest":
		return digest(out, arguments[1:])
	case len(arguments) >= 3 && arguments[0] == "push":
		return push(ctx, out, arguments[1], arguments[2:])
	default:
		return errors.New("usage: image archive NAME FILE BINARY, image digest BINARY..., or image push NAME BINARY")
	}
}

// archive writes the image of one platform in the form of docker save.
func archive(tag, file, binary string) error {
	reference, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	built, err := imageOf(binary)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, reference, built.image)
}

func digest(out io.Writer, binaries []string) error {
	index, err := indexOf(binaries)
	if err != nil {
		return err
	}
	hash, err := index.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, hash)
	return err
}

func push(ctx context.Context, out io.Writer, to string, binaries []string) error {
	reference, err := name.NewTag(to)
	if err != nil {
		return err
	}
	index, err := indexOf(binaries)
	if err != nil {
		return err
	}
	hash, err := index.Digest()
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(reference, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("pushing %s: %w", reference, err)
	}
	_, err = fmt.Fprintf(out, "%s@%s\n", reference, hash)
	return err
}
