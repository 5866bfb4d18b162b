package condition

import (
	"fmt"
	"strings"
	"unicode/utf8"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

const (
	// enumerated is the number of workloads, or pods, that a message names.
	enumerated = 3
	ellipsis   = "…"
)

// Enumerate names the first three of some things and counts the others.
func Enumerate[T any](things []T, separator string, name func(T) string) string {
	parts := make([]string, 0, enumerated+1)
	for _, thing := range things[:min(len(things), enumerated)] {
		parts = append(parts, name(thing))
	}
	if more := len(things) - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, separator)
}

// Cut shortens the message of a condition to wasmev1.MaxMessageLength characters.
func Cut(message string) string {
	runes := []rune(message)
	if len(runes) <= wasmev1.MaxMessageLength {
		return message
	}
	return string(runes[:wasmev1.MaxMessageLength-1]) + ellipsis
}

// EventNote shortens the text of an event to wasmev1.MaxMessageLength bytes,
// which is what the API server counts there.
func EventNote(message string) string {
	if len(message) <= wasmev1.MaxMessageLength {
		return message
	}
	end := wasmev1.MaxMessageLength - len(ellipsis)
	for !utf8.RuneStart(message[end]) {
		end--
	}
	return message[:end] + ellipsis
}
