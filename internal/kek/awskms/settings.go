// SPDX-License-Identifier: Apache-2.0

package awskms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

// Settings say which KMS key it is. Who asks is found by the standard chain of the AWS SDK: environment, shared files, web identity, container,
// instance.
type Settings struct {
	// At is the dotted name of these settings in the configuration, for errors: "kek.awskms".
	At string
	// KeyID is the ARN or the ID of a symmetric key.
	KeyID string
	// Region is "" for the one in the ARN, or what the standard chain finds.
	Region string
	// Profile is one of the shared configuration files; "" is the standard chain's.
	Profile string
	// Endpoint is another URL of the service, such as that of a VPC endpoint; "" is the region's.
	Endpoint string
}

func (s *Settings) bad(setting, format string, args ...any) error {
	return &kek.ConfigError{Setting: s.At + "." + setting, Err: fmt.Errorf(format, args...)}
}

var (
	bareID = regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`)
	keyARN = regexp.MustCompile(`^arn:[a-z0-9-]+:kms:([a-z0-9-]+):[0-9]{12}:key/([A-Za-z0-9-]{1,128})$`)
	alias  = regexp.MustCompile(`(^|:)alias/`)
)

// key returns the ID of the key, which is unique wherever it is, and the region that the ARN names.
func (s *Settings) key() (id, region string, err error) {
	if match := keyARN.FindStringSubmatch(s.KeyID); match != nil {
		return match[2], match[1], nil
	}
	switch {
	case s.KeyID == "":
		return "", "", s.bad("key_id", "is missing; it is the ARN of a symmetric KMS key")
	case alias.MatchString(s.KeyID):
		return "", "", s.bad("key_id", `%q is an alias, which may point to another key tomorrow: write the ARN of the key that it points to now ("aws kms describe-key --key-id %s")`,
			s.KeyID, s.KeyID)
	case !bareID.MatchString(s.KeyID):
		return "", "", s.bad("key_id", "%q is not the ARN or the ID of a KMS key", s.KeyID)
	}
	return s.KeyID, "", nil
}

// client reads what the standard chain has on this node; it asks nobody.
func (s *Settings) client(region string) (*kms.Client, error) {
	if err := s.checkEndpoint(); err != nil {
		return nil, err
	}
	if s.Region != "" {
		region = s.Region
	}
	load := []func(*config.LoadOptions) error{
		// A call or two per operation: nothing is worth being kept open, with keys in its buffers.
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })),
		// Who unlocks tries again, and says so meanwhile.
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if region != "" {
		load = append(load, config.WithRegion(region))
	}
	if s.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(s.Profile))
	}
	cfg, err := config.LoadDefaultConfig(context.Background(), load...)
	var noProfile config.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &noProfile):
		return nil, s.bad("profile", "%w", err)
	case err != nil:
		return nil, fmt.Errorf("read the configuration of AWS: %w", &kek.ConfigError{Setting: s.At, Err: err})
	case cfg.Region == "":
		return nil, s.bad("region", "is missing, and neither the key_id, the environment nor the profile names one")
	}
	return kms.NewFromConfig(cfg, func(o *kms.Options) {
		if s.Endpoint != "" {
			o.BaseEndpoint = aws.String(s.Endpoint)
		}
	}), nil
}

func (s *Settings) checkEndpoint() error {
	if s.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(s.Endpoint)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "":
		return s.bad("endpoint", "is not https://HOST")
	case u.Scheme == "http" && !wire.Loopback(u.Hostname()):
		return s.bad("endpoint", "%q would send keys over the network in clear; use https", s.Endpoint)
	}
	return nil
}
