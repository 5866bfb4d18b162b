package migrate

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What wasme 0.0.33 keeps in a cluster.
const (
	// CacheNamespace and CacheName are where its DaemonSet and ConfigMap are by default.
	CacheNamespace = "wasme"
	CacheName      = "wasme-cache"
	// imagesKey of the ConfigMap has the images that were deployed, one on each line.
	imagesKey = "images"
	// backupPrefix begins the annotations that keep the values which others had before.
	backupPrefix = "wasme-backup."
)

// volumeAnnotations have the sidecars of pods mount the cache.
var volumeAnnotations = []string{"sidecar.istio.io/userVolume", "sidecar.istio.io/userVolumeMount"}

// ImagesIn returns the images in the ConfigMap of wasme's cache.
func ImagesIn(cache *corev1.ConfigMap) []string {
	return strings.Fields(cache.Data[imagesKey])
}

// Cleaned returns the annotations of a pod template without what wasme 0.0.33 put there: the
// former values are put back. It reports whether that changes anything. A backup of wasme's
// own value, which it made when it deployed twice, is none.
func Cleaned(annotations map[string]string) (map[string]string, bool) {
	cleaned := maps.Clone(annotations)
	for _, name := range volumeAnnotations {
		if !strings.Contains(annotations[name], cacheFolder) {
			continue
		}
		delete(cleaned, name)
		if former := annotations[backupPrefix+name]; former != "" && !strings.Contains(former, cacheFolder) {
			cleaned[name] = former
		}
		delete(cleaned, backupPrefix+name)
	}
	return cleaned, !maps.Equal(cleaned, annotations)
}

// UsesCache reports whether an EnvoyFilter, in JSON, has proxies load a file of the cache.
func UsesCache(spec []byte) bool { return strings.Contains(string(spec), cacheFolder) }
