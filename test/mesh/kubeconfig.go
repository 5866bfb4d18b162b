package mesh

import (
	"context"
	"fmt"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// As returns a client configuration with the rights of a service account,
// which must exist: its token, requested from the API server, is valid for a day.
func (c *ControlPlane) As(ctx context.Context, namespace, serviceAccount string) (*rest.Config, error) {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	lifetime := int64(tokenLifetime.Seconds())
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, serviceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &lifetime}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a token of %s/%s: %w", namespace, serviceAccount, err)
	}
	config := rest.AnonymousClientConfig(c.admin)
	config.BearerToken = token.Status.Token
	return config, nil
}

// KubeconfigAs writes what As returns into a kubeconfig file, with the service
// account's namespace as default, and returns its path.
func (c *ControlPlane) KubeconfigAs(ctx context.Context, namespace, serviceAccount string) (string, error) {
	config, err := c.As(ctx, namespace, serviceAccount)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.folder, "kubeconfigs", namespace+"."+serviceAccount)
	return path, writeKubeconfigIn(path, namespace, config)
}

func (c *ControlPlane) clientKubeconfig(k keys, user string) (string, error) {
	pair, err := k.ca.Client(user)
	if err != nil {
		return "", err
	}
	config := rest.AnonymousClientConfig(c.admin)
	config.CertData, config.KeyData = pair.Cert, pair.Key
	path := filepath.Join(c.folder, "pki", filepath.Base(user)+".kubeconfig")
	return path, writeKubeconfig(path, config)
}

func writeKubeconfig(path string, config *rest.Config) error {
	return writeKubeconfigIn(path, corev1.NamespaceDefault, config)
}

func writeKubeconfigIn(path, namespace string, config *rest.Config) error {
	const name = "mesh"
	content, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{name: {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: {
			ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken,
		}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name, Namespace: namespace}},
		CurrentContext: name,
	})
	if err != nil {
		return fmt.Errorf("encoding a kubeconfig: %w", err)
	}
	return writeFiles(map[string][]byte{path: content})
}
