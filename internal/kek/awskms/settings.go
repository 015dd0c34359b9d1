// SPDX-License-Identifier: Apache-2.0

package awskms

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/lateregexp"
)

var (
	bareID = lateregexp.New(`^[A-Za-z0-9-]{1,128}$`)
	keyARN = lateregexp.New(`^arn:[a-z0-9-]+:kms:([a-z0-9-]+):[0-9]{12}:key/([A-Za-z0-9-]{1,128})$`)
	alias  = lateregexp.New(`(^|:)alias/`)
)

// key returns the ID of the key, which is unique wherever it is, and the region that the ARN names.
func key(at kek.Table, keyID string) (id, region string, err error) {
	if match := keyARN().FindStringSubmatch(keyID); match != nil {
		return match[2], match[1], nil
	}
	switch {
	case alias().MatchString(keyID):
		return "", "", at.Bad("key_id", `%q is an alias, which may point to another key tomorrow: write the ARN of the key that it points to now ("aws kms describe-key --key-id %s")`,
			keyID, keyID)
	case !bareID().MatchString(keyID):
		return "", "", at.Bad("key_id", "%q is not the ARN or the ID of a KMS key", keyID)
	}
	return keyID, "", nil
}

// client reads what the standard chain has on this node; it asks nobody.
func client(at kek.Table, s config.AWSKMS) (*kms.Client, error) {
	if s.Endpoint != "" {
		if _, err := wire.Endpoint(at, "endpoint", s.Endpoint, "https://HOST"); err != nil {
			return nil, err
		}
	}
	cfg, err := awsconfig.LoadDefaultConfig(context.Background(),
		awsconfig.WithRegion(s.Region), awsconfig.WithSharedConfigProfile(s.Profile), // "" is the chain's own
		// A call or two per operation: nothing is worth being kept open, with keys in its buffers.
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })),
		// Who unlocks tries again, and says so meanwhile.
		awsconfig.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }))
	var noProfile awsconfig.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &noProfile):
		return nil, at.Bad("profile", "%w", err)
	case err != nil:
		return nil, fmt.Errorf("read the configuration of AWS: %w", at.Bad("", "%w", err))
	case cfg.Region == "":
		return nil, at.Bad("region", "is missing, and neither the key_id, the environment nor the profile names one")
	}
	return kms.NewFromConfig(cfg, func(o *kms.Options) {
		if s.Endpoint != "" {
			o.BaseEndpoint = aws.String(s.Endpoint)
		}
	}), nil
}
