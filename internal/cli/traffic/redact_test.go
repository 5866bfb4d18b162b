package traffic

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCredentialsAreRedacted(t *testing.T) {
	e := Exchange{
		Request: Message{
			Headers: lines(
				":authority", "example.com", ":path", "/a?token=1&page=2&X-Amz-Signature=3&api%5Fkey=4&flag&password=#top", ":method", "GET",
				"authorization", "Bearer a", "proxy-authorization", "b", "cookie", "c=d", "x-api-key", "e", "x-auth-token", "f", "x-auth", "g",
				"x-csrf-token", "h", "x-amz-security-token", "i", "x-author", "kept", "idempotency-key", "kept", "sec-websocket-key", "kept",
				"referer", "https://user:pass@word@example.com/?code=5&a=b",
			),
			Trailers: lines("x-signature", "j"),
		},
		Response: &Message{Headers: lines(":status", "302", "set-cookie", "k=l", "set-cookie", "m=n", "location", "/b?access_token=6", "location", "https://app/#access_token=7&state=8", "location", "//user@app/a@b#/cb?code=9&next=10", "content-location", "/x//y@z", "www-authenticate", "Basic")},
	}
	Redact(&e)
	want := Exchange{
		Request: Message{
			Headers: lines(
				":authority", "example.com", ":path", "/a?token=[redacted]&page=2&X-Amz-Signature=[redacted]&api%5Fkey=[redacted]&flag&password=[redacted]#top", ":method", "GET",
				"authorization", Redacted, "proxy-authorization", Redacted, "cookie", Redacted, "x-api-key", Redacted, "x-auth-token", Redacted, "x-auth", Redacted,
				"x-csrf-token", Redacted, "x-amz-security-token", Redacted, "x-author", "kept", "idempotency-key", "kept", "sec-websocket-key", "kept",
				"referer", "https://example.com/?code=[redacted]&a=b",
			),
			Trailers: lines("x-signature", Redacted),
		},
		Response: &Message{Headers: lines(":status", "302", "set-cookie", Redacted, "set-cookie", Redacted, "location", "/b?access_token=[redacted]", "location", "https://app/#access_token=[redacted]&state=8", "location", "//app/a@b#/cb?code=[redacted]&next=10", "content-location", "/x//y@z", "www-authenticate", "Basic")},
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
}
