package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// fieldManager is the name under which wasme writes.
const fieldManager = "wasme"

// cluster is the cluster that the flags of a command and the kubeconfig choose.
type cluster struct {
	flags *genericclioptions.ConfigFlags
}

// newCluster adds kubectl's flags for a cluster to a command.
func newCluster(c *cobra.Command) *cluster {
	flags := genericclioptions.NewConfigFlags(true)
	// What no command of wasme reads is only noise in its help.
	flags.CacheDir, flags.DisableCompression, flags.AuthInfoName, flags.ClusterName = nil, nil, nil, nil
	flags.CertFile, flags.KeyFile, flags.CAFile, flags.TLSServerName, flags.BearerToken, flags.APIServer = nil, nil, nil, nil, nil, nil
	flags.ImpersonateUID, flags.Insecure = nil, nil
	flags.AddFlags(c.Flags())
	k := &cluster{flags: flags}
	_ = c.RegisterFlagCompletionFunc("namespace", k.namespaces) // the flag is there
	return k
}

// config returns how to reach the API server.
func (k *cluster) config() (*rest.Config, error) {
	config, err := k.flags.ToRESTConfig()
	if clientcmd.IsEmptyConfig(err) || errors.Is(err, clientcmd.ErrEmptyCluster) || err == nil && k.isUnset() {
		return nil, errors.New("no cluster is configured: set --kubeconfig or KUBECONFIG, or write ~/.kube/config")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return config, nil
}

// isUnset reports whether nothing says where the cluster is: then client-go takes it to be
// at port 8080 of this machine.
func (k *cluster) isUnset() bool {
	raw, err := k.flags.ToRawKubeConfigLoader().RawConfig()
	_, outside := rest.InClusterConfig()
	return err == nil && len(raw.Clusters) == 0 && outside != nil
}

// namespace returns that of the flag -n, or of the kubeconfig's context.
func (k *cluster) namespace() (string, error) {
	namespace, _, err := k.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("reading the namespace from the kubeconfig: %w", err)
	}
	return namespace, nil
}

// client returns a client of the API server, and the namespace that the flags choose.
func (k *cluster) client() (client.WithWatch, string, error) {
	namespace, err := k.namespace()
	if err != nil {
		return nil, "", err
	}
	config, err := k.config()
	if err != nil {
		return nil, "", err
	}
	silence()
	c, err := client.NewWithWatch(config, client.Options{Scheme: newScheme()})
	if err != nil {
		return nil, "", fmt.Errorf("reaching the API server at %s: %w", config.Host, err)
	}
	return c, namespace, nil
}

// silence drops what controller-runtime and client-go log: it is not for users of a command.
var silence = sync.OnceFunc(func() {
	log.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
})

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(s))
	utilruntime.Must(wasmev1.AddToScheme(s))
	utilruntime.Must(istio.AddToScheme(s))
	return s
}

// explain adds to an error of the API server what to do about it.
func explain(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case meta.IsNoMatchError(err):
		return fmt.Errorf("%s: this cluster does not serve FilterDeployments (wasme.io/v1): install wasme-operator", doing)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s: %w: ask for that right, or choose another --context", doing, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: the API server does not accept the kubeconfig's credentials: log in again", doing)
	case isUnreachable(err):
		return fmt.Errorf("%s: %w: check your network, and run wasme doctor", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// isUnreachable reports whether nothing answered at the address of a server.
func isUnreachable(err error) bool {
	_, unknown := errors.AsType[*net.DNSError](err)
	_, unconnected := errors.AsType[*net.OpError](err)
	return unknown || unconnected
}

// explainApply is explain for applying a FilterDeployment, whose fields may be someone else's.
func explainApply(ctx context.Context, name string, err error) error {
	doing := "applying FilterDeployment " + name
	if apierrors.IsConflict(err) {
		return fmt.Errorf("%s: someone else manages it: change it there, or delete it first: %w", doing, err)
	}
	return explain(ctx, doing, err)
}
