package v1

import (
	"encoding/json"
	"fmt"
)

// UnmarshalJSON reads a status, including one that the predecessor's operator
// wrote. That one stored observedGeneration as a string, which is how protobuf's
// JSON mapping writes an int64. A single object that could not be read would keep
// the operator from listing all others. Such a generation is read as none, so that
// this operator's status differs from it and a patch replaces it, because kstatus
// reads numbers only.
func (s *FilterDeploymentStatus) UnmarshalJSON(text []byte) error {
	type plain FilterDeploymentStatus
	status := struct {
		*plain
		ObservedGeneration json.RawMessage `json:"observedGeneration"`
	}{plain: (*plain)(s)}
	if err := json.Unmarshal(text, &status); err != nil {
		return err
	}
	s.ObservedGeneration = nil
	if len(status.ObservedGeneration) == 0 || status.ObservedGeneration[0] == '"' {
		return nil
	}
	if err := json.Unmarshal(status.ObservedGeneration, &s.ObservedGeneration); err != nil {
		return fmt.Errorf("reading status.observedGeneration: %w", err)
	}
	return nil
}
