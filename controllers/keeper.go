package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/peers"
)

// keepers is the number of modules brought at once.
const keepers = 8

// ModuleKeeper holds the modules that ControllerRevisions name, on every
// replica: what they name is served, and pulled again where it is missing.
type ModuleKeeper struct {
	// Client reads from the cache.
	Client client.Client
	// Reader reads pull Secrets from the API server.
	Reader client.Reader
	// Modules resolves images. It is not the FilterDeployment controller's: it
	// wakes this controller.
	Modules *resolve.Resolver
	Store   *store.Store
	// Peers are asked for a missing module before its registry is.
	Peers *peers.Peers
	// LegacyPullSecrets as in FilterDeploymentReconciler.
	LegacyPullSecrets bool
	// RecheckInterval is the time between looks at the store.
	RecheckInterval time.Duration
}

// Reconcile looks after the module of one ControllerRevision.
func (k *ModuleKeeper) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var object appsv1.ControllerRevision
	if err := k.Client.Get(ctx, request.NamespacedName, &object); err != nil {
		if apierrors.IsNotFound(err) {
			k.Modules.Forget(request.NamespacedName)
			k.Store.Release(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	known, err := decodeRevision(&object)
	if err != nil {
		log.FromContext(ctx).Error(err, "Ignoring a revision")
		return ctrl.Result{}, nil
	}
	k.Store.Retain(request.NamespacedName, known.Module.SHA256)
	if err := k.hold(ctx, request, known); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: wait.Jitter(k.RecheckInterval, recheckJitter)}, nil
}

// hold brings a missing module: from another replica, else from its registry.
func (k *ModuleKeeper) hold(ctx context.Context, request ctrl.Request, known revision) error {
	if !k.Store.Has(known.Module.SHA256) && k.Peers.Copy(ctx, known.Module.SHA256, *known.Module.SizeBytes) != nil {
		return k.pull(ctx, request, known)
	}
	k.Modules.Forget(request.NamespacedName)
	return nil
}

// Complete tells whether the store holds every module that a revision names.
func (k *ModuleKeeper) Complete(ctx context.Context) bool {
	var list appsv1.ControllerRevisionList
	if err := k.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return false
	}
	for i := range list.Items {
		known, err := decodeRevision(&list.Items[i])
		if err == nil && !k.Store.Has(known.Module.SHA256) {
			return false
		}
	}
	return true
}

// pull has the very module brought that the revision was made of: its source may
// have another one by now.
func (k *ModuleKeeper) pull(ctx context.Context, request ctrl.Request, known revision) error {
	result, err := k.find(ctx, request.NamespacedName, known)
	if err != nil {
		return err
	}
	if result.Err != nil {
		log.FromContext(ctx).Info("A module is missing and cannot be had yet", "sha256", known.Module.SHA256, "reason", result.Err.Reason, "message", result.Err.Message)
	}
	return nil
}

func (k *ModuleKeeper) find(ctx context.Context, owner types.NamespacedName, known revision) (resolve.Result, error) {
	if known.Filter.ConfigMap != nil {
		return k.fromConfigMap(ctx, owner, known)
	}
	if known.Filter.URL != "" {
		return k.Modules.Resolve(owner, pull.Request{URL: known.Filter.URL, SHA256: known.Module.SHA256}), nil
	}
	pinned, err := pinnedImage(known)
	if err != nil {
		return resolve.Result{}, err
	}
	request, err := pullRequest(ctx, k.Reader, owner.Namespace, known.Filter, k.LegacyPullSecrets)
	if err != nil {
		return resolve.Result{}, err
	}
	request.Image = pinned
	return k.Modules.Resolve(owner, request), nil
}

// fromConfigMap keeps what a ConfigMap holds if it is still the revision's module.
func (k *ModuleKeeper) fromConfigMap(ctx context.Context, owner types.NamespacedName, known revision) (resolve.Result, error) {
	content, err := configMapValue(ctx, k.Reader, owner.Namespace, "spec.filter.configMap", *known.Filter.ConfigMap)
	if err != nil {
		return resolve.Result{}, err
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != known.Module.SHA256 {
		return resolve.Result{}, fmt.Errorf("ConfigMap %s has another module than the revision, which only other replicas have", known.Filter.ConfigMap.Name)
	}
	return k.Modules.ResolveContent(owner, sourceOf(known.Filter), content), nil
}

func pinnedImage(known revision) (string, error) {
	reference, err := name.ParseReference(known.Filter.Image)
	if err != nil {
		return "", fmt.Errorf("reading the image reference of a revision: %w", err)
	}
	return reference.Context().Digest(known.Module.ManifestDigest).String(), nil
}

// SetupWithManager registers the controller; it runs on every replica.
func (k *ModuleKeeper) SetupWithManager(manager ctrl.Manager, waker *Waker) error {
	err := ctrl.NewControllerManagedBy(manager).
		Named("module-keeper").
		For(&appsv1.ControllerRevision{}).
		WatchesRawSource(waker).
		WithOptions(controller.Options{
			NeedLeaderElection:      new(false),
			MaxConcurrentReconciles: keepers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minBackoff, maxBackoff),
		}).
		Complete(k)
	if err != nil {
		return fmt.Errorf("setting up the module keeper: %w", err)
	}
	return nil
}
