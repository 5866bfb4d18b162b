package condition_test

import (
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/internal/condition"
)

func TestEventNoteIsCut(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"not at the bound", strings.Repeat("ä", 512), strings.Repeat("ä", 512)},
		{"by bytes beyond it", strings.Repeat("ä", 513), strings.Repeat("ä", 510) + "…"},
		{"with three bytes for the mark", strings.Repeat("a", 1025), strings.Repeat("a", 1021) + "…"},
		{"not within a character of four bytes", strings.Repeat("𝄞", 257), strings.Repeat("𝄞", 255) + "…"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := condition.EventNote(row.text); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestMessageIsCut(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"not when it is short", "short", "short"},
		{"not at the bound", strings.Repeat("ä", 1024), strings.Repeat("ä", 1024)},
		{"by characters beyond it", strings.Repeat("ä", 1025), strings.Repeat("ä", 1023) + "…"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := condition.Cut(row.text); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestEnumerateNamesThree(t *testing.T) {
	for _, row := range []struct {
		things []string
		want   string
	}{
		{nil, ""},
		{[]string{"a"}, "A"},
		{[]string{"a", "b", "c"}, "A; B; C"},
		{[]string{"a", "b", "c", "d"}, "A; B; C; and 1 more"},
		{[]string{"a", "b", "c", "d", "e"}, "A; B; C; and 2 more"},
	} {
		t.Run(strings.Join(row.things, ""), func(t *testing.T) {
			if got := condition.Enumerate(row.things, "; ", strings.ToUpper); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
