package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	pollInterval = 5 * time.Second
	pollWindow   = time.Minute
	pollFilters  = 100
)

// polls measures what a registry is asked while nothing changes, with many
// FilterDeployments of one image, half of them with one credential and half with
// another: one HEAD per interval and credential.
func (p *perf) polls(ctx context.Context) error {
	users := map[string]string{"one": "secret", "two": "secret"}
	c, err := startCluster(ctx, registry.WithBasicAuth(users))
	if err != nil {
		return err
	}
	defer c.stop()
	if _, err := c.StartOperator(ctx, mesh.OperatorOptions{Args: []string{"--image-poll-interval=" + pollInterval.String()}}); err != nil {
		return err
	}
	if err := c.pollers(ctx, users); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	if err := pause(ctx, 2*pollInterval); err != nil {
		return err
	}
	c.registry.ResetRequests()
	if err := pause(ctx, pollWindow); err != nil {
		return err
	}
	heads, all := c.registry.Requests(http.MethodHead, ""), c.registry.Requests("", "")
	if heads == 0 {
		return errors.New("the registry was not asked at all")
	}
	// A window of n intervals holds up to n + 1 polls: one right at its begin, one right at its end.
	most := len(users) * (int(pollWindow/pollInterval) + 1)
	p.table.add(row{
		name:     fmt.Sprintf("HEADs per poll and credential, %d FilterDeployments", pollFilters),
		measured: fmt.Sprintf("%d HEADs in %s", heads, pollWindow),
		beside:   fmt.Sprintf("%d polls at most: every %s, %d credentials", most, pollInterval, len(users)),
		value:    float64(heads) / float64(most),
		unit:     perPoll,
		bound:    atMost(1),
	})
	p.table.add(row{
		name:     "other requests to the registry meanwhile",
		measured: fmt.Sprint(all - heads),
		beside:   "-",
		value:    float64(all - heads),
		unit:     count,
		bound:    atMost(0),
	})
	return nil
}

// pollers creates the FilterDeployments and waits until they are Ready.
func (c *cluster) pollers(ctx context.Context, users map[string]string) error {
	image, err := c.push(ctx, "")
	if err != nil {
		return err
	}
	if err := c.admin.Create(ctx, deployment("default", "app", nil)); err != nil {
		return err
	}
	for user, password := range users {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: user},
			Type:       corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil,
				`{"auths":{%q:{"username":%q,"password":%q}}}`, c.registry.Host(), user, password)},
		}
		if err := c.admin.Create(ctx, secret); err != nil {
			return err
		}
		err := parallel(ctx, creators, pollFilters/len(users), func(ctx context.Context, i int) error {
			fd := filterDeployment("default", fmt.Sprintf("filter-%s-%d", user, i), image, user, nil)
			fd.Spec.Filter.ImagePullOptions.PullSecret = user
			if err := c.admin.Create(ctx, fd); err != nil {
				return err
			}
			return c.awaitReady(ctx, fd)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
