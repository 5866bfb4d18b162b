// Package doctor judges an installation of the operator. It is pure: objects and answers go
// in, findings come out. Who calls it reads them, with the rights of a user.
//
//	server     the API server's version, and clocks
//	rights     what the user and the operator's account may do
//	crd        the CustomResourceDefinition, against the API that wasme was built with
//	operator   its pods, its leader, its flags, and that it is outside of the mesh
//	istio      the versions of istiod and of the proxies, and the kinds of Istio's objects
//	modules    the module server, and what sidecars could fetch
//	network    NetworkPolicies between sidecars and the module server
//	filters    FilterDeployments that are not Ready
//
// What the user has no right to see is not checked, and says so: it never fails.
package doctor

import (
	"errors"
	"fmt"
	"strings"
)

// Status is what a check came to.
type Status string

// The values of a Status.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	// Fail is for what keeps filters from running, now or when pods start.
	Fail Status = "FAIL"
	// NotChecked is for what could not be seen.
	NotChecked Status = "not checked"
)

// Finding is what one check saw.
type Finding struct {
	// Check names what was checked.
	Check  string `json:"check"`
	Status Status `json:"status"`
	Seen   string `json:"seen"`
	// Fix says what to do; empty when there is nothing to do.
	Fix string `json:"fix,omitempty"`
}

// String returns what was seen and the fix, as one line.
func (f Finding) String() string {
	if f.Fix == "" {
		return f.Seen
	}
	return f.Seen + ": " + f.Fix
}

func ok(check, format string, args ...any) Finding {
	return Finding{Check: check, Status: OK, Seen: fmt.Sprintf(format, args...)}
}

func warn(check, fix, format string, args ...any) Finding {
	return Finding{check, Warn, fmt.Sprintf(format, args...), fix}
}

func fail(check, fix, format string, args ...any) Finding {
	return Finding{check, Fail, fmt.Sprintf(format, args...), fix}
}

// Unknown returns the finding of a check that could not be made, for the reason given.
func Unknown(check, format string, args ...any) Finding {
	return Finding{Check: check, Status: NotChecked, Seen: fmt.Sprintf(format, args...)}
}

// Unreadable returns the finding of a check whose objects could not be read. A *MissingRight
// in the error is the user's to ask for.
func Unreadable(check string, err error) Finding {
	found := Unknown(check, "%v", err)
	if missing, is := errors.AsType[*MissingRight](err); is {
		found.Seen, found.Fix = missing.Error(), "ask for it, or have someone who has it run wasme doctor"
	}
	return found
}

// Failed counts the findings that failed.
func Failed(findings []Finding) int {
	count := 0
	for _, f := range findings {
		if f.Status == Fail {
			count++
		}
	}
	return count
}

// shown is how many of many names a finding shows.
const shown = 3

// some joins names, and counts those that would be too many.
func some(names []string) string {
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}
