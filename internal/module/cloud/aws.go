package cloud

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"

	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

// amazonHosts are the private registries of Amazon ECR: account, FIPS, region.
var amazonHosts = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\.(amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn)$`)

// amazon asks ECR of the registry's region, with the pod's identity (EKS Pod Identity,
// IAM roles for service accounts) or the node's.
func amazon(ctx context.Context, host string) (token, error) {
	parts := amazonHosts.FindStringSubmatch(host)
	options := []func(*config.LoadOptions) error{config.WithRegion(parts[2])}
	if parts[1] != "" {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	account, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return token{}, fmt.Errorf("reading the configuration for AWS: %w", err)
	}
	answer, err := ecr.NewFromConfig(account).GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return token{}, fmt.Errorf("asking ECR in %s: %w", parts[2], err)
	}
	if len(answer.AuthorizationData) == 0 {
		return token{}, errors.New("asking ECR: it gives no token")
	}
	data := answer.AuthorizationData[0]
	pair, err := base64.StdEncoding.DecodeString(aws.ToString(data.AuthorizationToken))
	username, password, found := strings.Cut(string(pair), ":")
	if err != nil || !found {
		return token{}, errors.New("asking ECR: its token is not base64 of user and password")
	}
	return token{pull.Credential{Username: username, Password: password}, aws.ToTime(data.ExpiresAt)}, nil
}
