package v1

// Preflight says what follows when the operator's own run of a module finds a fault.
//
// +kubebuilder:validation:Enum=Enforce;Warn;Off
// +kubebuilder:validation:MaxLength=16
type Preflight string

// What follows from a preflight.
const (
	// PreflightEnforce keeps a revision with a fault from every proxy.
	PreflightEnforce Preflight = "Enforce"
	// PreflightWarn reports the fault, and rolls the revision out.
	PreflightWarn Preflight = "Warn"
	// PreflightOff runs no module.
	PreflightOff Preflight = "Off"
)

// PreflightTests says where the tests of a module are.
type PreflightTests struct {
	// configMap is a key of a ConfigMap in the same namespace whose value is a test file
	// in the schema of Google's service-extensions plugins. The key ends in .textpb, .yaml
	// or .yml, which says how it is written.
	// +required
	ConfigMap ConfigMapKey `json:"configMap"`
}
