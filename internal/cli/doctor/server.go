package doctor

import (
	"time"

	"k8s.io/apimachinery/pkg/util/version"
)

const (
	// ServerCheck is about the API server's version.
	ServerCheck = "API server"
	clockCheck  = "clock"
)

// oldestKubernetes has preStop.sleep and ValidatingAdmissionPolicy on by default.
var oldestKubernetes = version.MajorMinor(1, 30)

// Server judges the version of the API server, as its /version has it.
func Server(gitVersion string) Finding {
	found, err := version.ParseGeneric(gitVersion)
	switch {
	case err != nil:
		return Unknown(ServerCheck, "its version %q cannot be read", gitVersion)
	case found.LessThan(oldestKubernetes):
		return fail(ServerCheck, "update the cluster", "Kubernetes %s is older than 1.30, which the operator needs", gitVersion)
	}
	return ok(ServerCheck, "Kubernetes %s", gitVersion)
}

// maxOffset is how far clocks may be apart: credentials that are valid for minutes, ages and
// the record of a rollout still make sense then.
const maxOffset = 5 * time.Second

// Clock judges the difference between this machine's clock and that of the API server:
// positive when this machine is ahead. It is known as well as within.
func Clock(offset, within time.Duration) Finding {
	if offset.Abs() <= maxOffset+within {
		return ok(clockCheck, "this machine and the API server agree within %v", max(offset.Abs(), within).Round(time.Second))
	}
	return warn(clockCheck, "synchronise both by NTP: credentials may be refused, and ages are wrong",
		"this machine is %v %s the API server", offset.Abs().Round(time.Second), aheadOrBehind(offset))
}

func aheadOrBehind(offset time.Duration) string {
	if offset > 0 {
		return "ahead of"
	}
	return "behind"
}
