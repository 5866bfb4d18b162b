package traffic

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// Redacted replaces the values of credentials.
const Redacted = "[redacted]"

var (
	// secretHeader matches the names of headers whose values let others in.
	secretHeader = regexp.MustCompile(`authorization|cookie|token|secret|passw|api-?key|access-?key|credential|signature|session|jwt|(^|-)auth(-|$)`)
	// secretParameter matches the names of query parameters whose values do.
	secretParameter = regexp.MustCompile(`(?i)token|secret|passw|pwd|key|credential|sig$|signature|session|jwt|auth|^code$`)
	// linkHeader matches the headers whose values are URLs.
	linkHeader = regexp.MustCompile(`^(:path|referer|location|content-location|x-envoy-original-path|x-original-url|x-forwarded-uri|x-rewrite-url)$`)
)

// Redact replaces the values of credentials in the headers, trailers and query parameters
// of an exchange. Bodies stay as they are.
func Redact(e *Exchange) {
	e.Request.redact()
	if e.Response != nil {
		e.Response.redact()
	}
}

func (m *Message) redact() {
	for _, lines := range []host.Headers{m.Headers, m.Trailers} {
		for i, line := range lines {
			switch {
			case linkHeader.MatchString(line.Name):
				lines[i].Value = redactQuery(line.Value)
			case secretHeader.MatchString(line.Name):
				lines[i].Value = Redacted
			}
		}
	}
}

// redactQuery replaces the values of secret parameters in the query of a URL, and leaves
// every other byte as it is.
func redactQuery(target string) string {
	path, query, found := strings.Cut(target, "?")
	if !found {
		return target
	}
	query, fragment, hasFragment := strings.Cut(query, "#")
	parameters := strings.Split(query, "&")
	for i, parameter := range parameters {
		name, _, hasValue := strings.Cut(parameter, "=")
		if hasValue && secretParameter.MatchString(unescaped(name)) {
			parameters[i] = name + "=" + Redacted
		}
	}
	target = path + "?" + strings.Join(parameters, "&")
	if hasFragment {
		target += "#" + fragment
	}
	return target
}

// unescaped returns a name of a query parameter as it was meant; as it is when it cannot
// be decoded.
func unescaped(name string) string {
	if plain, err := url.QueryUnescape(name); err == nil {
		return plain
	}
	return name
}
