package cli

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
)

func (e *examiner) userRights(ctx context.Context) {
	denied, err := e.denied(ctx, doctor.UserNeeds(e.namespace), "")
	if err != nil {
		e.add(doctor.Unreadable(doctor.RightsCheck, err))
		return
	}
	e.add(doctor.UserRights(e.namespace, denied))
}

func (e *examiner) accountRights(ctx context.Context, o doctor.Operator) {
	denied, err := e.denied(ctx, doctor.OperatorNeeds(o.Namespace, o.Watched()), o.User())
	if err != nil {
		e.add(doctor.Unreadable(o.RightsCheck(), err))
		return
	}
	e.add(o.AccountRights(denied))
}

// denied returns those rights that a user does not have; without a name, the user of the
// kubeconfig.
func (e *examiner) denied(ctx context.Context, rights []doctor.Right, user string) ([]doctor.Right, error) {
	lacks := make([]bool, len(rights))
	reviews, ctx := errgroup.WithContext(ctx)
	reviews.SetLimit(askedAtOnce)
	for i, right := range rights {
		reviews.Go(func() (err error) {
			lacks[i], err = e.lacks(ctx, right, user)
			return err
		})
	}
	err := reviews.Wait()
	var denied []doctor.Right
	for i, right := range rights {
		if lacks[i] {
			denied = append(denied, right)
		}
	}
	return denied, err
}

func (e *examiner) lacks(ctx context.Context, right doctor.Right, user string) (bool, error) {
	resource, sub, _ := strings.Cut(right.Resource, "/")
	attributes := &authorizationv1.ResourceAttributes{Namespace: right.Namespace, Verb: right.Verb, Group: right.Group, Resource: resource, Subresource: sub}
	if user == "" {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}
		err := e.Create(ctx, review)
		return !review.Status.Allowed, err
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: accountGroups(user), ResourceAttributes: attributes}}
	err := e.Create(ctx, review)
	return !review.Status.Allowed, err
}

// accountGroups returns the groups that a ServiceAccount is in, which may have roles, too.
func accountGroups(user string) []string {
	parts := strings.Split(user, ":") // system:serviceaccount:<namespace>:<name>
	return []string{"system:serviceaccounts", "system:serviceaccounts:" + parts[2], "system:authenticated"}
}
