package v1

import (
	"encoding/json"
	"fmt"
)

// UnmarshalJSON reads a status, that of the predecessor's operator included:
// it stored observedGeneration as protobuf's JSON mapping writes an int64, a
// string. One such object that could not be read would keep the operator from
// listing all others. It is read as none, so that a status of this operator
// differs from it and a patch replaces it: kstatus takes numbers only.
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
