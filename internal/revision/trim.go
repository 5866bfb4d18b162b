package revision

import (
	"encoding/json"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// MaxCachedConfiguration is the number of bytes of a configuration that a cache keeps:
	// thousands of large ones would not fit into the operator's memory.
	MaxCachedConfiguration = 4 << 10

	// CutAnnotation is on cached objects only. It holds the size in bytes of the
	// configuration that the cache left out.
	CutAnnotation = "wasme.io/cached-without-configuration"

	// CutDigestAnnotation is on the same objects. It holds the Digest of the whole revision.
	CutDigestAnnotation = "wasme.io/cached-digest"
)

// Trim is a cache transform: it leaves a large configuration out of a ControllerRevision.
// Decode reads such a one, too, and Whole tells.
func Trim(item any) (any, error) {
	object, ok := item.(*appsv1.ControllerRevision)
	if !ok {
		return item, nil
	}
	object.SetManagedFields(nil)
	if data, size := withoutConfiguration(object.Data.Raw); size > 0 {
		if whole, err := Decode(object); err == nil {
			metav1.SetMetaDataAnnotation(&object.ObjectMeta, CutDigestAnnotation, whole.Digest)
		}
		object.Data.Raw = data
		metav1.SetMetaDataAnnotation(&object.ObjectMeta, CutAnnotation, strconv.Itoa(size))
	}
	return object, nil
}

// withoutConfiguration returns data without its configuration, and the size of that; 0
// when it is small, or when the data is not that of a revision, which Decode reports.
func withoutConfiguration(data []byte) (rest []byte, size int) {
	var content Content
	if json.Unmarshal(data, &content) != nil || content.Filter.Config == nil || len(content.Filter.Config.Raw) <= MaxCachedConfiguration {
		return nil, 0
	}
	size = len(content.Filter.Config.Raw)
	content.Filter.Config = nil
	rest, err := json.Marshal(content)
	if err != nil {
		return nil, 0
	}
	return rest, size
}

// IsCut reports whether a cache left out the object's configuration.
func IsCut(annotations map[string]string) bool { return annotations[CutAnnotation] != "" }

// Whole reports whether the revision has its configuration. Everything else of it is as
// it was kept, its Hash included.
func (r *Revision) Whole() bool { return r.Object == nil || !IsCut(r.Object.Annotations) }
