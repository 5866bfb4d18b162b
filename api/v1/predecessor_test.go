package v1_test

import (
	"encoding/json"
	"testing"

	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// A FilterDeployment as the predecessor's operator left it in etcd.
const stored = `
apiVersion: wasme.io/v1
kind: FilterDeployment
metadata: {name: bookinfo-custom-filter, namespace: bookinfo, generation: 2}
spec:
  deployment: {istio: {kind: Deployment}}
  filter:
    config: {'@type': type.googleapis.com/google.protobuf.StringValue, value: world}
    image: webassemblyhub.io/sodman/istio-1-7:v0.3
status:
  observedGeneration: "2"
  workloads:
    details-v1: {state: Succeeded}
    reviews-v1: {}
`

func TestPredecessorsStatusIsRead(t *testing.T) {
	var object wasmev1.FilterDeployment
	if err := yaml.Unmarshal([]byte(stored), &object); err != nil {
		t.Fatal(err)
	}
	if got := object.Status.ObservedGeneration; got != nil {
		t.Errorf("observedGeneration is %v: as if this operator had written it", *got)
	}
	if got := object.Status.Workloads["details-v1"].State; got != wasmev1.WorkloadSucceeded {
		t.Errorf("details-v1 is %q", got)
	}
	if _, found := object.Status.Workloads["reviews-v1"]; !found {
		t.Error("reviews-v1 is missing")
	}
}

func TestObservedGeneration(t *testing.T) {
	for _, c := range []struct {
		json string
		want string
	}{
		{`{"observedGeneration":3,"revision":"r"}`, `{"observedGeneration":3,"revision":"r"}`},
		{`{"observedGeneration":"3"}`, `{}`},
		{`{"observedGeneration":"","revision":"r"}`, `{"revision":"r"}`},
		{`{"observedGeneration":null}`, `{}`},
		{`{}`, `{}`},
	} {
		generation := int64(7)
		status := wasmev1.FilterDeploymentStatus{ObservedGeneration: &generation}
		if err := json.Unmarshal([]byte(c.json), &status); err != nil {
			t.Errorf("%s: %v", c.json, err)
			continue
		}
		if got, err := json.Marshal(status); err != nil || string(got) != c.want {
			t.Errorf("%s became %s (%v)", c.json, got, err)
		}
	}
	for _, bad := range []string{`{"observedGeneration":2.5}`, `{"observedGeneration":{}}`, `{"observedGeneration":true}`} {
		var status wasmev1.FilterDeploymentStatus
		if err := json.Unmarshal([]byte(bad), &status); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}
