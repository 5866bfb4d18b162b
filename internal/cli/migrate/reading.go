package migrate

import (
	"errors"
	"fmt"

	typeapi "istio.io/api/type/v1beta1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// reading is what an object asks for.
type reading struct {
	document
	// output is the kind of objects that the FilterDeployment is to have.
	output  wasmev1.Output
	filters []filter
	// selector are labels of pods; none for all.
	selector   map[string]string
	references []wasmev1.TargetRef
	// inert says that no current proxy runs the filter.
	inert bool
}

// read returns what an object asks for; nil when it has no Wasm filter of HTTP requests.
func read(object istio.Output) *reading {
	switch istio.KindOf(object) {
	case wasmev1.OutputWasmPlugin:
		return readWasmPlugin(object)
	case wasmev1.OutputEnvoyFilter:
		return readEnvoyFilter(object)
	}
	return nil
}

// readReferences reads targetRefs.
func (r *reading) readReferences(references []*typeapi.PolicyTargetReference) {
	for i, reference := range references {
		gateway := reference.GetKind() == wasmev1.TargetKindGateway && reference.GetGroup() == workload.GatewayKind.Group
		service := reference.GetKind() == wasmev1.TargetKindService && (reference.GetGroup() == "" || reference.GetGroup() == "core")
		switch {
		case gateway:
			r.references = append(r.references, wasmev1.TargetRef{Group: workload.GatewayKind.Group, Kind: wasmev1.TargetKindGateway, Name: reference.GetName()})
		case service:
			r.references = append(r.references, wasmev1.TargetRef{Kind: wasmev1.TargetKindService, Name: reference.GetName()})
		default:
			r.refuse(fmt.Sprintf("spec.targetRefs[%d]", i), "a FilterDeployment cannot reference %s %s: reference Gateways and Services", reference.GetKind(), reference.GetName())
		}
	}
}

func (r *reading) err() error { return errors.Join(r.problems...) }
