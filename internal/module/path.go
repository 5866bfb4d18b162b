package module

import "strings"

// A module is served at pathPrefix, its digest, pathSuffix.
const (
	pathPrefix = "/modules/sha256/"
	pathSuffix = ".wasm"
)

// Path returns the path at which the module server serves the module with the
// digest sha256 (64 hex). Proxies keep the URL for as long as they run the
// module, so it does not change.
func Path(sha256 string) string { return pathPrefix + sha256 + pathSuffix }

// ParsePath returns the digest in a path that Path made; false for any other path.
func ParsePath(path string) (sha256 string, ok bool) {
	sha256, hasPrefix := strings.CutPrefix(path, pathPrefix)
	sha256, hasSuffix := strings.CutSuffix(sha256, pathSuffix)
	if !hasPrefix || !hasSuffix || !IsSHA256(sha256) {
		return "", false
	}
	return sha256, true
}

// IsSHA256 reports whether text is a SHA-256 digest in 64 lower case
// hexadecimal digits, as spec.filter.sha256 has it.
func IsSHA256(text string) bool {
	return len(text) == 64 && strings.Trim(text, "0123456789abcdef") == ""
}
