package v1

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// UnmarshalJSON reads a status, that of the predecessor's operator included:
// it stored observedGeneration as protobuf's JSON mapping writes an int64, a
// string. One such object that could not be read would keep the operator from
// listing all others.
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
	digits := bytes.Trim(status.ObservedGeneration, `"`)
	if len(digits) == 0 || bytes.Equal(digits, []byte("null")) {
		return nil
	}
	generation, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return fmt.Errorf("reading status.observedGeneration: %w", err)
	}
	s.ObservedGeneration = &generation
	return nil
}
