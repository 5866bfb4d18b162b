package v1

// Condition types of a FilterDeployment.
const (
	// ConditionModuleResolved: the image was found, its module is well formed
	// and held by the operator.
	ConditionModuleResolved = "ModuleResolved"
	// ConditionWorkloadsSelected: the workloads of spec.deployment were found.
	ConditionWorkloadsSelected = "WorkloadsSelected"
	// ConditionProgrammed: every selected workload has the Istio object that
	// makes its proxies run the filter as the spec describes it.
	ConditionProgrammed = "Programmed"
	// ConditionLoaded: the proxies of the workloads' pods run the revision that
	// the outputs hold. It counts pods that are Ready and have a sidecar.
	ConditionLoaded = "Loaded"
	// ConditionReady sums up the others, as kstatus reads it.
	ConditionReady = "Ready"
	// ConditionReconciling: present and True while the operator still works
	// towards the spec, retries included (kstatus).
	ConditionReconciling = "Reconciling"
	// ConditionStalled: present and True when only a change of an object can
	// help (kstatus).
	ConditionStalled = "Stalled"
	// ConditionContested: present and True while something else acts, or is
	// there to act, on the FilterDeployment or its outputs.
	ConditionContested = "Contested"
	// ConditionOverlapping: present and True while an output, which selects by
	// pod labels, reaches pods of a workload that it was not made for.
	ConditionOverlapping = "Overlapping"
)

// Reasons of conditions.
const (
	// ReasonResolved: the module is known and held (ModuleResolved).
	ReasonResolved = "Resolved"
	// ReasonResolving: the image is being looked up or pulled.
	ReasonResolving = "Resolving"
	// ReasonInvalidSpec: a field has a value that cannot work; the message names it.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonImageNotFound: the registry has no such image.
	ReasonImageNotFound = "ImageNotFound"
	// ReasonUnauthorized: the registry refused the credentials, or asked for some.
	ReasonUnauthorized = "Unauthorized"
	// ReasonRegistryUnavailable: the registry did not answer, or not as a registry does.
	ReasonRegistryUnavailable = "RegistryUnavailable"
	// ReasonRegistryForbidden: the operator may not connect there (--denied-networks,
	// --allowed-registries, or plain HTTP without plainHttp).
	ReasonRegistryForbidden = "RegistryForbidden"
	// ReasonSecretNotFound: imagePullOptions.pullSecret names no Secret of the namespace.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonSecretUnreadable: the API server did not give the pull Secret.
	ReasonSecretUnreadable = "SecretUnreadable"
	// ReasonSecretInvalid: the pull Secret holds no credential for the image's registry.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonInvalidImage: the image holds no Wasm module in a known form.
	ReasonInvalidImage = "InvalidImage"
	// ReasonInvalidModule: the module is no Wasm, or not built for proxy-wasm.
	ReasonInvalidModule = "InvalidModule"
	// ReasonTooLarge: manifest, layer, archive or module pass a limit of the operator.
	ReasonTooLarge = "TooLarge"
	// ReasonDigestMismatch: the registry sent content that its digest does not cover.
	ReasonDigestMismatch = "DigestMismatch"
	// ReasonStoreUnavailable: the operator cannot keep the module (disk full, or read-only).
	ReasonStoreUnavailable = "StoreUnavailable"
	// ReasonConfigMapNotFound: configFrom or configMap names no ConfigMap of the namespace.
	ReasonConfigMapNotFound = "ConfigMapNotFound"
	// ReasonConfigMapUnreadable: the API server did not give the ConfigMap.
	ReasonConfigMapUnreadable = "ConfigMapUnreadable"
	// ReasonConfigMapInvalid: the ConfigMap lacks the key, or its value is too large.
	ReasonConfigMapInvalid = "ConfigMapInvalid"
	// ReasonRootIDMissing: neither spec.filter.rootID nor the image names a root id.
	ReasonRootIDMissing = "RootIDMissing"

	// ReasonSelected: workloads were found (WorkloadsSelected).
	ReasonSelected = "Selected"
	// ReasonNoWorkloads: no workload of that kind and those labels exists yet.
	ReasonNoWorkloads = "NoWorkloads"
	// ReasonWorkloadsUnreadable: the workloads could not be listed.
	ReasonWorkloadsUnreadable = "WorkloadsUnreadable"
	// ReasonRootNamespace: the mesh's root namespace takes gateway filters with labels only.
	ReasonRootNamespace = "RootNamespace"

	// ReasonProgrammed: all outputs are as the spec asks (Programmed).
	ReasonProgrammed = "Programmed"
	// ReasonDistributing: the replicas of the operator are copying the module.
	ReasonDistributing = "Distributing"
	// ReasonSpreading: a module goes from workload to workload, as pods load it.
	ReasonSpreading = "Spreading"
	// ReasonNothingResolved: there is no revision to program yet.
	ReasonNothingResolved = "NothingResolved"
	// ReasonLastGoodRevision: the spec cannot be resolved; an earlier revision stays in force.
	ReasonLastGoodRevision = "LastGoodRevision"
	// ReasonOutputKindMissing: the API server does not serve the kind of the outputs.
	ReasonOutputKindMissing = "OutputKindMissing"
	// ReasonConflict: an object of the output's name exists and is not ours.
	ReasonConflict = "Conflict"
	// ReasonOutputRefused: the API server refuses the outputs: a policy of the
	// cluster forbids them, or its Istio does not know a field.
	ReasonOutputRefused = "OutputRefused"
	// ReasonWriteFailed: the API server refused or did not answer a write.
	ReasonWriteFailed = "WriteFailed"
	// ReasonWorkloadUnsupported: a workload cannot take the filter; the message names it.
	ReasonWorkloadUnsupported = "WorkloadUnsupported"

	// ReasonLoaded: every pod that counts runs the revision (Loaded).
	ReasonLoaded = "Loaded"
	// ReasonLoading: pods are about to get the revision.
	ReasonLoading = "Loading"
	// ReasonNoPods: the workloads have no pods that count; those that come get the filter.
	ReasonNoPods = "NoPods"
	// ReasonUnproven: what pods run is not known: they are not asked
	// (--prove-pods=false), or the output shows no revision.
	ReasonUnproven = "Unproven"
	// ReasonNoSidecar: the pods have no sidecar that could run the filter.
	ReasonNoSidecar = "NoSidecar"
	// ReasonFetchFailed: proxies could not fetch the module.
	ReasonFetchFailed = "FetchFailed"
	// ReasonRefused: proxies refused the filter: its module, its root id, or the
	// module its configuration.
	ReasonRefused = "Refused"
	// ReasonNoListener: proxies have no HTTP listener that the filter could stand in.
	ReasonNoListener = "NoListener"
	// ReasonAnchorMissing: proxies have no HTTP filter of the name in spec.filter.position.
	ReasonAnchorMissing = "AnchorMissing"
	// ReasonOlderRevision: proxies go on with an older revision.
	ReasonOlderRevision = "OlderRevision"
	// ReasonCrashing: the module crashes on requests; seen with FailReload only.
	ReasonCrashing = "Crashing"
	// ReasonUnreachable: the pods' proxies do not answer the operator.
	ReasonUnreachable = "Unreachable"

	// ReasonReady: everything the spec asks for is in place (Ready).
	ReasonReady = "Ready"
	// ReasonSuspended: spec.suspend is set; Ready stays as it was (Ready).
	ReasonSuspended = "Suspended"
	// ReasonProgressing: work is under way (Reconciling).
	ReasonProgressing = "Progressing"
	// ReasonProgressingWithRetry: something failed and is tried again (Reconciling).
	ReasonProgressingWithRetry = "ProgressingWithRetry"

	// ReasonPredecessorRunning: the operator of wasme is installed, with
	// replicas; Ready stays what it is (Contested).
	ReasonPredecessorRunning = "PredecessorRunning"
	// ReasonStatusOverwritten: something else wrote its own status over this
	// operator's within the last five minutes; Ready is False.
	ReasonStatusOverwritten = "StatusOverwritten"
	// ReasonRevisionLabel: someone put Istio's label istio.io/rev on an output;
	// the istiods of other revisions do not read it. Ready stays what it is.
	ReasonRevisionLabel = "RevisionLabel"

	// ReasonRunsRepeatedly: the filter runs more than once on each request to a
	// workload; Ready stays what it is (Overlapping).
	ReasonRunsRepeatedly = "RunsRepeatedly"
	// ReasonOtherWorkloads: the filter runs on workloads that are not selected;
	// Ready stays what it is.
	ReasonOtherWorkloads = "OtherWorkloads"
)

// MaxMessageLength is the number of characters that the messages of
// conditions, workloads and events are cut to.
const MaxMessageLength = 1024

// MaxWorkloadsInStatus is the number of entries that status.workloads holds.
const MaxWorkloadsInStatus = 500
