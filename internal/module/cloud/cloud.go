// Package cloud gets credentials for the registries of clouds from the identity that the
// operator's pod has there: from the metadata service of its node, or from the token of
// its service account.
//
// A cloud is asked only for hosts that are its own (aws.go, google.go, azure.go): nobody else
// can answer there, whatever image a FilterDeployment names. The addresses that are asked for
// the identity are fixed or come from the pod's environment, never from an image, so
// --denied-networks does not hold for them.
package cloud

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

const (
	// renewBefore is how long before its end a credential is renewed.
	renewBefore = 5 * time.Minute
	// maxHosts is the number of registries whose credentials are kept.
	maxHosts = 1000
)

// provider is a cloud.
type provider struct {
	// hosts matches the names of its registries, whole.
	hosts *regexp.Regexp
	// credential gets a new credential for a registry.
	credential func(ctx context.Context, host string) (token, error)
}

// token is a credential with its end.
type token struct {
	pull.Credential
	expires time.Time
}

// providers are the clouds by their names in --cloud-credentials.
var providers = map[string]provider{
	"ecr": {amazonHosts, amazon},
	"gcr": {googleHosts, google},
	"acr": {azureHosts, azure},
}

// Credentials get credentials and keep them until shortly before they end.
type Credentials struct {
	providers []provider
	clock     clock.PassiveClock
	known     *lru.Cache
	gets      singleflight.Group
}

// New returns the credentials of the clouds with these names. The error lists those that
// there are.
func New(names []string, clk clock.PassiveClock) (*Credentials, error) {
	c := &Credentials{clock: clk, known: lru.New(maxHosts)}
	for _, name := range names {
		known, found := providers[name]
		if !found {
			return nil, fmt.Errorf("%q is not a known cloud: use %s", name, strings.Join(slices.Sorted(maps.Keys(providers)), ", "))
		}
		c.providers = append(c.providers, known)
	}
	return c, nil
}

// Covers reports whether a host is a registry of one of the clouds.
func (c *Credentials) Covers(host string) bool {
	_, found := c.providerOf(host)
	return found
}

func (c *Credentials) providerOf(host string) (provider, bool) {
	i := slices.IndexFunc(c.providers, func(p provider) bool { return p.hosts.MatchString(host) })
	if i < 0 {
		return provider{}, false
	}
	return c.providers[i], true
}

// Credential returns a credential for a registry that Covers. The error is a *module.Error.
func (c *Credentials) Credential(ctx context.Context, host string) (pull.Credential, error) {
	now := c.clock.Now()
	kept, found := c.kept(host)
	if found && now.Before(kept.expires.Add(-renewBefore)) {
		return kept.Credential, nil
	}
	fresh, err := c.get(ctx, host)
	switch {
	case err == nil:
		return fresh.Credential, nil
	case found && now.Before(kept.expires):
		return kept.Credential, nil
	}
	// What a metadata service answers is for the log only.
	log.FromContext(ctx).Error(err, "Getting a credential from the cloud failed", "registry", host)
	return pull.Credential{}, module.Temporary(wasmev1.ReasonRegistryUnavailable, "getting a credential for %s from the cloud (--cloud-credentials): the identity of the operator's pod gives none: see its log, or reference a Secret in spec.filter.imagePullOptions.pullSecret", host)
}

func (c *Credentials) kept(host string) (token, bool) {
	kept, found := c.known.Get(host)
	if !found {
		return token{}, false
	}
	return kept.(token), true
}

// get gets a new credential, once for all that ask at the same time.
func (c *Credentials) get(ctx context.Context, host string) (token, error) {
	fresh, err, _ := c.gets.Do(host, func() (any, error) {
		from, _ := c.providerOf(host)
		fresh, err := from.credential(ctx, host)
		if err == nil {
			c.known.Add(host, fresh)
		}
		return fresh, err
	})
	return fresh.(token), err
}

// Forget has the next Credential for a registry get a new one: the kept one was denied.
func (c *Credentials) Forget(host string) { c.known.Remove(host) }
