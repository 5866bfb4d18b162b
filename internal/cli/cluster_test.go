package cli

import (
	"errors"
	"net"
	"net/url"
	"testing"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestErrorsOfTheAPIServerSayWhatToDo(t *testing.T) {
	resource := schema.GroupResource{Group: "wasme.io", Resource: "filterdeployments"}
	unreachable := func(err error) error { return &url.Error{Op: "Get", URL: "https://kube/api", Err: err} }
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"no CRD", &meta.NoKindMatchError{}, "reading: this cluster does not serve FilterDeployments (wasme.io/v1): install wasme-operator"},
		{"no right", apierrors.NewForbidden(resource, "hello", errors.New("no")), "ask for that right, or choose another --context"},
		{"nothing listens", unreachable(&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}), "connection refused: check your network, and run wasme doctor"},
		{"an unknown host", unreachable(&net.DNSError{Err: "no such host", Name: "kube"}), "no such host: check your network, and run wasme doctor"},
		{"another error", errors.New("no"), "reading: no"},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(explain(t.Context(), "reading", row.err)).To(MatchError(HaveSuffix(row.want)))
		})
	}
	g := NewWithT(t)
	g.Expect(explain(t.Context(), "reading", nil)).To(Succeed())
	g.Expect(explainApply(t.Context(), "hello", apierrors.NewConflict(resource, "hello", errors.New("theirs")))).To(MatchError(HavePrefix("applying FilterDeployment hello: someone else manages it: change it there, or delete it first: ")))
}
