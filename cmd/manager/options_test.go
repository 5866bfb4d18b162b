package main

import (
	"flag"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

func parse(args ...string) (options, error) {
	flags := flag.NewFlagSet("manager", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return parseOptions(flags, args)
}

func TestOptionsRefuseWhatCannotWork(t *testing.T) {
	for name, tc := range map[string]struct{ argument, want string }{
		"module server URL without scheme": {"--module-server-url=modules:8082", "--module-server-url"},
		"module server URL without host":   {"--module-server-url=http:///modules", "with a host"},
		"no poll interval":                 {"--image-poll-interval=0s", "--image-poll-interval must be positive"},
		"no workers":                       {"--max-concurrent-reconciles=0", "must be at least 1"},
		"unknown source":                   {"--allowed-sources=image,git", "--allowed-sources: \"git\" is no source of modules: use image, url, configMap"},
		"class that is no label":           {"--class=a b", "--class \"a b\" cannot be part of a label"},
		"class that is too long":           {"--class=" + strings.Repeat("a", 50), "cannot be part of a label"},
		"address as network":               {"--denied-networks=10.0.0.1", "write it as 10.0.0.0/8"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(tc.argument); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestWhereImagesComeFrom(t *testing.T) {
	opts, err := parse("--cloud-credentials=ecr", "--preloaded-images="+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	from, err := opts.pull()
	if err != nil || from.Preloaded == nil || !from.Cloud.Covers("123456789012.dkr.ecr.eu-west-1.amazonaws.com") || from.Cloud.Covers("gcr.io") {
		t.Errorf("%+v, %v", from, err)
	}
	if opts, err = parse(); err != nil {
		t.Fatal(err)
	}
	if from, err = opts.pull(); err != nil || from.Preloaded != nil || from.Cloud != nil {
		t.Errorf("by default: %+v, %v", from, err)
	}
	for argument, want := range map[string]string{
		"--cloud-credentials=quay":                    `--cloud-credentials: "quay" is not a known cloud: use acr, ecr, gcr`,
		"--preloaded-images=" + t.TempDir() + "/none": "--preloaded-images: opening the preloaded images: ",
	} {
		if opts, err = parse(argument); err != nil {
			t.Fatal(err)
		}
		if _, err := opts.pull(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestOptionsReadLists(t *testing.T) {
	opts, err := parse("--denied-networks=10.0.0.0/8, fc00::/7", "--watch-namespaces=a,b", "--allowed-registries=ghcr.io", "--unverified-namespaces=c, d")
	if err != nil {
		t.Fatal(err)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fc00::/7")}; !slices.Equal(opts.deniedNetworks, want) {
		t.Errorf("denied networks: %v", opts.deniedNetworks)
	}
	if !slices.Equal(opts.unverifiedNamespaces, []string{"c", "d"}) {
		t.Errorf("unverified namespaces %v", opts.unverifiedNamespaces)
	}
	if !slices.Equal(opts.watchNamespaces, []string{"a", "b"}) || !slices.Equal(opts.allowedRegistries, []string{"ghcr.io"}) {
		t.Errorf("namespaces %v, registries %v", opts.watchNamespaces, opts.allowedRegistries)
	}
}

func TestOptionsDenyLoopbackAndLinkLocalUnlessTold(t *testing.T) {
	opts, err := parse()
	if err != nil || !slices.Equal(opts.deniedNetworks, pull.DefaultDeniedNetworks) {
		t.Fatalf("denied networks: %v, %v", opts.deniedNetworks, err)
	}
	if opts, err = parse("--denied-networks="); err != nil || len(opts.deniedNetworks) != 0 {
		t.Fatalf("denied networks: %v, %v", opts.deniedNetworks, err)
	}
}
