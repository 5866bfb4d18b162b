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
	// secretParameter matches the names of parameters of URLs whose values do.
	secretParameter = regexp.MustCompile(`(?i)token|secret|passw|pwd|key|credential|sig$|signature|session|jwt|auth|^code$`)
	// linkHeader matches the headers whose values are URLs.
	linkHeader = regexp.MustCompile(`^(:path|referer|location|content-location|x-envoy-original-path|x-original-url|x-forwarded-uri|x-rewrite-url)$`)
)

// userinfo matches a URL up to its host when there is a user before that.
var userinfo = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9+.-]*:)?//[^/]*@`)

// Redact replaces the values of credentials in the headers, trailers and parameters of URLs
// of an exchange, and drops users and passwords from URLs. Bodies stay as they are.
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
				lines[i].Value = redactURL(line.Value)
			case secretHeader.MatchString(line.Name):
				lines[i].Value = Redacted
			}
		}
	}
}

// redactURL drops the user of a URL, replaces the values of secret parameters in its query and
// its fragment, and leaves every other byte as it is.
func redactURL(target string) string {
	target, fragment, hasFragment := strings.Cut(target, "#")
	target, query, hasQuery := strings.Cut(target, "?")
	target = userinfo.ReplaceAllString(target, "$1//")
	if hasQuery {
		target += "?" + redactParameters(query)
	}
	if hasFragment {
		target += "#" + redactParameters(fragment)
	}
	return target
}

// redactParameters replaces those of a query, or of a fragment, which may have a path before
// its first one.
func redactParameters(text string) string {
	parameters := strings.Split(text, "&")
	for i, parameter := range parameters {
		name, _, hasValue := strings.Cut(parameter, "=")
		plain := unescaped(name)
		if hasValue && secretParameter.MatchString(plain[strings.LastIndex(plain, "?")+1:]) {
			parameters[i] = name + "=" + Redacted
		}
	}
	return strings.Join(parameters, "&")
}

// unescaped returns a name of a parameter as it was meant; as it is when it cannot be decoded.
func unescaped(name string) string {
	if plain, err := url.QueryUnescape(name); err == nil {
		return plain
	}
	return name
}
