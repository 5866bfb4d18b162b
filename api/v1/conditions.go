package v1

// Condition types of a FilterDeployment.
const (
	// ConditionModuleResolved: the module was found, is well formed, and the operator
	// has a copy.
	ConditionModuleResolved = "ModuleResolved"
	// ConditionAdmitted: the filter meets all policies that apply to it. Present while
	// there is one.
	ConditionAdmitted = "Admitted"
	// ConditionPreflighted: the operator has run the module with its configuration, as a
	// proxy would.
	ConditionPreflighted = "Preflighted"
	// ConditionWorkloadsSelected: the workloads of spec.deployment were found.
	ConditionWorkloadsSelected = "WorkloadsSelected"
	// ConditionProgrammed: every selected workload has the Istio object that
	// makes its proxies run the filter as the spec describes it.
	ConditionProgrammed = "Programmed"
	// ConditionLoaded: the proxies of the workloads' pods run the revision that
	// the outputs hold. It counts pods that are Ready and have a sidecar.
	ConditionLoaded = "Loaded"
	// ConditionReady sums up the other conditions, as kstatus reads it.
	ConditionReady = "Ready"
	// ConditionReconciling: present and True while the operator is still working on
	// what the spec asks for, retries included (kstatus).
	ConditionReconciling = "Reconciling"
	// ConditionStalled: present and True when retries cannot help and something must
	// change first (kstatus).
	ConditionStalled = "Stalled"
	// ConditionContested: present and True while something else changes the
	// FilterDeployment or its outputs, or is installed and could do so.
	ConditionContested = "Contested"
	// ConditionOverlapping: present and True while an output, which selects by
	// pod labels, reaches pods of a workload that it was not made for.
	ConditionOverlapping = "Overlapping"
)

// Reasons of conditions.
const (
	// ReasonResolved: the operator has the module (ModuleResolved).
	ReasonResolved = "Resolved"
	// ReasonResolving: the image is being looked up or pulled.
	ReasonResolving = "Resolving"
	// ReasonInvalidSpec: a field has a value that cannot work. The message names the field.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonImageNotFound: the registry has no such image.
	ReasonImageNotFound = "ImageNotFound"
	// ReasonUnauthorized: the registry refused the credentials, or requires some.
	ReasonUnauthorized = "Unauthorized"
	// ReasonRegistryUnavailable: the registry did not answer, or its answer was not that of a registry.
	ReasonRegistryUnavailable = "RegistryUnavailable"
	// ReasonSourceForbidden: the operator does not take modules from such a source
	// (--allowed-sources).
	ReasonSourceForbidden = "SourceForbidden"
	// ReasonRegistryForbidden: the operator is not allowed to connect there
	// (--denied-networks, --allowed-registries, or plain HTTP without plainHttp).
	ReasonRegistryForbidden = "RegistryForbidden"
	// ReasonSecretNotFound: the namespace has no Secret with the name in
	// imagePullOptions.pullSecret.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonSecretUnreadable: the pull Secret could not be read from the API server.
	ReasonSecretUnreadable = "SecretUnreadable"
	// ReasonSecretInvalid: the pull Secret holds no credential for the image's registry.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonInvalidImage: the image does not hold a Wasm module in a known form.
	ReasonInvalidImage = "InvalidImage"
	// ReasonInvalidModule: the module is not Wasm, or was not built for proxy-wasm.
	ReasonInvalidModule = "InvalidModule"
	// ReasonTooLarge: the manifest, a layer, the archive or the module exceeds a limit
	// of the operator, or the configuration is too large for so many workloads.
	ReasonTooLarge = "TooLarge"
	// ReasonDigestMismatch: the content that was sent does not have the digest that was
	// asked for.
	ReasonDigestMismatch = "DigestMismatch"
	// ReasonStoreUnavailable: the operator cannot store the module (disk full, or read-only).
	ReasonStoreUnavailable = "StoreUnavailable"
	// ReasonConfigMapNotFound: the namespace has no ConfigMap with the name in
	// configFrom or configMap.
	ReasonConfigMapNotFound = "ConfigMapNotFound"
	// ReasonConfigMapUnreadable: the ConfigMap could not be read from the API server.
	ReasonConfigMapUnreadable = "ConfigMapUnreadable"
	// ReasonConfigMapInvalid: the ConfigMap lacks the key, or its value is too large.
	ReasonConfigMapInvalid = "ConfigMapInvalid"
	// ReasonRootIDMissing: neither spec.filter.rootID nor the image specifies a root id.
	ReasonRootIDMissing = "RootIDMissing"

	// ReasonAdmitted: the filter meets all policies (Admitted).
	ReasonAdmitted = "Admitted"
	// ReasonWarned: the filter breaks policies whose mode is Warn, or whether it does cannot be
	// told. The message says how, or why.
	ReasonWarned = "Warned"
	// ReasonVerifying: the signatures of the image, or the trusted root that they must come
	// from, are being looked up.
	ReasonVerifying = "Verifying"
	// ReasonNotSigned: not all signers that a policy asks for have signed the image.
	ReasonNotSigned = "NotSigned"
	// ReasonSignaturesUnavailable: the signatures of the image, or the trusted root that
	// they must come from, could not be read.
	ReasonSignaturesUnavailable = "SignaturesUnavailable"
	// ReasonModuleUnreadable: what the module imports could not be read. The operator pulls the
	// module again.
	ReasonModuleUnreadable = "ModuleUnreadable"
	// ReasonImageDenied: a policy does not list the image.
	ReasonImageDenied = "ImageDenied"
	// ReasonSourceDenied: a policy does not allow modules from such a source.
	ReasonSourceDenied = "SourceDenied"
	// ReasonCapabilityDenied: the module imports what a policy denies.
	ReasonCapabilityDenied = "CapabilityDenied"
	// ReasonFailStrategyDenied: a policy does not allow the filter's failStrategy.
	ReasonFailStrategyDenied = "FailStrategyDenied"
	// ReasonPolicyInvalid: a policy has a key, a pattern, a selector or a trusted root
	// that cannot be used. Nothing meets it until it is fixed.
	ReasonPolicyInvalid = "PolicyInvalid"

	// ReasonPreflighted: the module ran without a fault (Preflighted).
	ReasonPreflighted = "Preflighted"
	// ReasonPreflighting: the module is being run, or waits for its turn.
	ReasonPreflighting = "Preflighting"
	// ReasonPreflightOff: the module was not run, because spec.filter.preflight is Off.
	ReasonPreflightOff = "PreflightOff"
	// ReasonPreflightUnavailable: the operator cannot run modules.
	ReasonPreflightUnavailable = "PreflightUnavailable"
	// ReasonNotRun: the operator cannot run this module, but proxies may be able to. This
	// counts as True.
	ReasonNotRun = "NotRun"
	// ReasonUndecided: the module failed after it had asked for something that only a real
	// proxy has. This counts as True.
	ReasonUndecided = "Undecided"
	// ReasonMissingExport: the module lacks a function that proxies need, or has it with
	// another signature.
	ReasonMissingExport = "MissingExport"
	// ReasonMissingImport: the module imports a function that proxies do not offer.
	ReasonMissingImport = "MissingImport"
	// ReasonUnknownRootID: the module does not know the root id.
	ReasonUnknownRootID = "UnknownRootID"
	// ReasonStartFailed: the module fails or refuses to start.
	ReasonStartFailed = "StartFailed"
	// ReasonConfigurationRefused: the module refuses its configuration.
	ReasonConfigurationRefused = "ConfigurationRefused"
	// ReasonTrapped: the module crashes on a request or a response, as it is configured, or
	// as it ends.
	ReasonTrapped = "Trapped"
	// ReasonTimedOut: the module does not return, or takes too long to compile.
	ReasonTimedOut = "TimedOut"
	// ReasonMemoryExceeded: the module needs more memory than --preflight-memory-bytes.
	ReasonMemoryExceeded = "MemoryExceeded"
	// ReasonLeaking: the module's memory grows with each stream.
	ReasonLeaking = "Leaking"
	// ReasonTestsFailed: the module fails its author's tests.
	ReasonTestsFailed = "TestsFailed"

	// ReasonSelected: workloads were found (WorkloadsSelected).
	ReasonSelected = "Selected"
	// ReasonNoWorkloads: no workload with this kind and these labels exists yet.
	ReasonNoWorkloads = "NoWorkloads"
	// ReasonWorkloadsUnreadable: the workloads could not be listed.
	ReasonWorkloadsUnreadable = "WorkloadsUnreadable"
	// ReasonTargetNotFound: a Gateway or Service in targetRefs does not exist. Once it
	// does, its proxies get the filter.
	ReasonTargetNotFound = "TargetNotFound"
	// ReasonRootNamespace: in the mesh's root namespace, only filters for gateways that
	// are selected by labels are accepted.
	ReasonRootNamespace = "RootNamespace"

	// ReasonProgrammed: all outputs match the spec (Programmed).
	ReasonProgrammed = "Programmed"
	// ReasonDistributing: the replicas of the operator are copying the module, or the URL
	// that sidecars ask does not serve it.
	ReasonDistributing = "Distributing"
	// ReasonSpreading: the module is rolled out from workload to workload, as pods load it.
	ReasonSpreading = "Spreading"
	// ReasonRolloutPaused: spec.rollout.paused keeps the next step from beginning.
	ReasonRolloutPaused = "RolloutPaused"
	// ReasonRolloutHeld: a step of a staged rollout failed, and everything stays as it is.
	ReasonRolloutHeld = "RolloutHeld"
	// ReasonRolledBack: a step of a staged rollout failed, and the last good revision is in force.
	ReasonRolledBack = "RolledBack"
	// ReasonNothingResolved: there is no revision to program yet.
	ReasonNothingResolved = "NothingResolved"
	// ReasonLastGoodRevision: the spec cannot be resolved, and an earlier revision
	// stays in force.
	ReasonLastGoodRevision = "LastGoodRevision"
	// ReasonOutputKindMissing: the API server does not serve the kind of the outputs.
	ReasonOutputKindMissing = "OutputKindMissing"
	// ReasonConflict: an object with the output's name exists, and the operator did not
	// create it.
	ReasonConflict = "Conflict"
	// ReasonOutputRefused: the API server refuses the outputs, because a policy of the
	// cluster forbids them or its Istio does not know a field.
	ReasonOutputRefused = "OutputRefused"
	// ReasonOutputOverwritten: something else keeps changing an output, which is
	// repaired less and less often (Programmed, Contested).
	ReasonOutputOverwritten = "OutputOverwritten"
	// ReasonWriteFailed: the API server refused a write, or did not answer it.
	ReasonWriteFailed = "WriteFailed"
	// ReasonWorkloadUnsupported: a workload cannot run the filter. The message names the
	// workload.
	ReasonWorkloadUnsupported = "WorkloadUnsupported"

	// ReasonLoaded: every pod that counts runs the revision, apart from the few that
	// do not answer (Loaded).
	ReasonLoaded = "Loaded"
	// ReasonLoading: pods are loading the revision.
	ReasonLoading = "Loading"
	// ReasonNoPods: the workloads have no pods that count. New pods get the filter.
	ReasonNoPods = "NoPods"
	// ReasonUnproven: it is not known what the pods run, because they are not asked
	// (--verify-pods=false, --unverified-namespaces, or the annotation
	// wasme.io/verify-pods), or because the proxies of a targetRef are not known. With
	// spec.deployment.istio.verification NotRequired, the latter counts as True, too.
	ReasonUnproven = "Unproven"
	// ReasonNoSidecar: no pod of a workload has a sidecar that could run the filter.
	ReasonNoSidecar = "NoSidecar"
	// ReasonFetchFailed: proxies could not fetch the module.
	ReasonFetchFailed = "FetchFailed"
	// ReasonRefused: proxies refused the filter, because of its module, its root id or
	// its configuration.
	ReasonRefused = "Refused"
	// ReasonNotLoaded: proxies do not run the filter, and their agents do not answer why.
	ReasonNotLoaded = "NotLoaded"
	// ReasonListenerRefused: proxies run the revision, but refused their newest listeners.
	ReasonListenerRefused = "ListenerRefused"
	// ReasonNoListener: proxies have no HTTP listener that could run the filter.
	ReasonNoListener = "NoListener"
	// ReasonAnchorMissing: proxies have no HTTP filter with the name in spec.filter.position.
	ReasonAnchorMissing = "AnchorMissing"
	// ReasonOlderRevision: proxies keep running an older revision.
	ReasonOlderRevision = "OlderRevision"
	// ReasonCrashing: the module crashes on requests. Proxies show this with FailReload only.
	ReasonCrashing = "Crashing"
	// ReasonUnreachable: the proxies of several pods do not answer the operator, or
	// those of all.
	ReasonUnreachable = "Unreachable"

	// ReasonReady: everything the spec asks for is in place (Ready).
	ReasonReady = "Ready"
	// ReasonSuspended: spec.suspend is set. Ready keeps its status, but is Unknown for a
	// spec that was not applied (Ready).
	ReasonSuspended = "Suspended"
	// ReasonProgressing: the operator is working on it (Reconciling).
	ReasonProgressing = "Progressing"
	// ReasonProgressingWithRetry: something failed, and the operator tries again (Reconciling).
	ReasonProgressingWithRetry = "ProgressingWithRetry"

	// ReasonStatusOverwritten: within the last five minutes, something else overwrote
	// the status of this operator with its own. Ready is False.
	ReasonStatusOverwritten = "StatusOverwritten"
	// ReasonRevisionLabel: an output has Istio's label istio.io/rev, so the istiods of
	// other revisions do not read it. This does not change Ready.
	ReasonRevisionLabel = "RevisionLabel"

	// ReasonRunsRepeatedly: the filter runs more than once on each request to a
	// workload. This does not change Ready (Overlapping).
	ReasonRunsRepeatedly = "RunsRepeatedly"
	// ReasonOtherWorkloads: the filter runs on workloads that are not selected. This
	// does not change Ready.
	ReasonOtherWorkloads = "OtherWorkloads"
)

// MaxMessageLength is the number of characters that the messages of
// conditions, workloads and events are cut to.
const MaxMessageLength = 1024

// MaxWorkloadsInStatus is the number of entries that status.workloads holds.
const MaxWorkloadsInStatus = 500
