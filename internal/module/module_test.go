package module

import "testing"

func TestURLWithoutQuery(t *testing.T) {
	for _, row := range []struct{ given, want string }{
		{"https://h/m.wasm", "https://h/m.wasm"},
		{"https://h/m.wasm?X-Signature=hush#there", "https://h/m.wasm"},
		{"https://h/m.wasm#there?X-Signature=hush", "https://h/m.wasm"},
		{"https://h?X-Signature=hush", "https://h"},
		{"", ""},
	} {
		if got := URLWithoutQuery(row.given); got != row.want {
			t.Errorf("%q: got %q, want %q", row.given, got, row.want)
		}
	}
}
