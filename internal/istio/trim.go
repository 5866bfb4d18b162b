package istio

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
)

// These are on cached outputs only, in place of their spec.
const (
	specHashAnnotation  = "wasme.io/cached-spec-hash"
	specBytesAnnotation = "wasme.io/cached-spec-bytes"
)

// Trim is a cache transform: it replaces an output's spec by a hash of it and its size.
func Trim(item any) (any, error) {
	object, ok := item.(Output)
	if !ok {
		return item, nil
	}
	annotations := object.GetAnnotations()
	// A transform may be given its own result: the first listing goes through it
	// twice. What the API server sends has managed fields.
	if object.GetManagedFields() == nil && annotations[specHashAnnotation] != "" {
		return object, nil
	}
	object.SetManagedFields(nil)
	noted := make(map[string]string, len(annotations)+2)
	maps.Copy(noted, annotations)
	noted[specHashAnnotation] = SpecHash(object.Content().Raw)
	noted[specBytesAnnotation] = strconv.Itoa(len(object.Content().Raw))
	object.SetAnnotations(noted)
	*object.Content() = runtime.RawExtension{}
	return object, nil
}

// Untrim takes the hash of the spec off a copy of a cached output, and returns
// both. The copy has no spec.
func Untrim(cached Output) (object Output, specHash string) {
	object = cached.DeepCopyObject().(Output)
	annotations := object.GetAnnotations()
	specHash = annotations[specHashAnnotation]
	delete(annotations, specHashAnnotation)
	delete(annotations, specBytesAnnotation)
	object.SetAnnotations(annotations)
	return object, specHash
}

// SpecBytes returns the size in bytes of the spec of a cached output.
func SpecBytes(cached Output) int {
	size, _ := strconv.Atoi(cached.GetAnnotations()[specBytesAnnotation]) // Trim wrote it
	return size
}

// SpecHash returns a hash of a spec in JSON that is the same for equal specs,
// whatever the order of their fields; empty for invalid JSON.
func SpecHash(spec []byte) string {
	var content any
	if err := json.Unmarshal(spec, &content); err != nil {
		return "" // equal to no hash: the output is written again
	}
	ordered, err := json.Marshal(content)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(ordered)
	return hex.EncodeToString(sum[:])
}
