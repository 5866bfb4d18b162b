// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"bytes"
	"context"
	_ "embed" // the stored CRD
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// storeTimeout bounds a write to etcd.
	storeTimeout = 10 * time.Second
	// maxStoreError is what is read, in bytes, of an answer of etcd.
	maxStoreError = 4096
)

// predecessorsCRD is the CRD of wasme 0.0.33 as an API server of its time, which
// still took apiextensions.k8s.io/v1beta1, left it in etcd: with
// preserveUnknownFields, which today's API refuses, and without a schema.
//
//go:embed testdata/predecessor-crd.json
var predecessorsCRD []byte

// StorePredecessorsCRD has the cluster be one that was upgraded since wasme
// 0.0.33 was installed in it. It returns when FilterDeployments are served.
func (c *ControlPlane) StorePredecessorsCRD(ctx context.Context) error {
	if err := c.store(ctx, "/registry/apiextensions.k8s.io/customresourcedefinitions/filterdeployments.wasme.io", predecessorsCRD); err != nil {
		return err
	}
	var served error
	err := wait.PollUntilContextTimeout(ctx, retryInterval, readyTimeout, true, func(ctx context.Context) (bool, error) {
		_, served = c.Kubectl(ctx, "get", "filterdeployments.wasme.io", "--all-namespaces")
		return served == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the predecessor's CRD to be served: %w: %w", err, served)
	}
	return nil
}

// store puts an object into etcd past the API server, which notices it as any
// other change.
func (c *ControlPlane) store(ctx context.Context, key string, object []byte) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	// etcd's JSON gateway takes keys and values in base64, as JSON has []byte.
	body, err := json.Marshal(map[string][]byte{"key": []byte(key), "value": object})
	if err != nil {
		return fmt.Errorf("encoding %s: %w", key, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.etcd+"/v3/kv/put", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("storing %s: %w", key, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("storing %s: %w", key, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(response.Body, maxStoreError))
		return fmt.Errorf("storing %s: etcd answered %s: %s", key, response.Status, answer)
	}
	return nil
}
