// The sources of Argo CD and Flux, whose CRDs judge the manifests in config/gitops. Nothing is built from them.
module github.com/wasme-io/wasme-operator/hack/build/gitops

go 1.26.3

require (
	github.com/argoproj/argo-cd/v3 v3.5.7
	github.com/fluxcd/helm-controller v1.6.1
	github.com/fluxcd/kustomize-controller v1.9.6
	github.com/fluxcd/source-controller v1.9.6
)
