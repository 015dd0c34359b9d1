// SPDX-License-Identifier: Apache-2.0

package awskms

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

// codes are the error codes of KMS, and of STS where a role is assumed on the way, that do not tell by their HTTP status what they are. Source: the API
// references of both.
var codes = map[error][]string{
	kek.ErrNotFound: {"NotFoundException"},
	kek.ErrDisabled: {"DisabledException", "KMSInvalidStateException"},                                        // pending deletion or import, or a replica being made
	kek.ErrWrongKey: {"InvalidCiphertextException", "IncorrectKeyException", "IncorrectKeyMaterialException"}, // the first also for another context
	kek.ErrDenied: {"AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
		"InvalidGrantTokenException", "InvalidIdentityToken", "InvalidSignatureException", "MissingAuthenticationToken",
		"MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch", "UnrecognizedClientException"},
	kek.ErrUnavailable: {"RequestExpired", "RequestTimeTooSkewed"}, // this node's clock, which may not be set yet
}

// class is what a code means, or nil.
func class(code string) error {
	for err, names := range codes {
		if slices.Contains(names, code) {
			return err
		}
	}
	if _, throttled := retry.DefaultThrottleErrorCodes[code]; throttled {
		return kek.ErrUnavailable
	}
	return nil
}

// wrong are the codes that a setting is to blame for.
var wrong = map[string]string{
	"NotFoundException":             "key_id",
	"DisabledException":             "key_id",
	"KMSInvalidStateException":      "key_id",
	"InvalidArnException":           "key_id",
	"InvalidKeyUsageException":      "key_id",
	"ValidationException":           "key_id",
	"UnsupportedOperationException": "key_id",
}

// classify says what an error of the SDK means. Its words are shown, since nobody can mend a policy without them; the request is not in them.
func (p *provider) classify(operation string, err error) error {
	words := wire.Text([]byte(err.Error()))
	fail := func(kind error, setting string) error {
		out := errors.New(words)
		switch {
		case setting != "":
			out = p.at.Bad(setting, "%s", words)
		case kind == kek.ErrDenied: // who asks is a matter of the whole table, and of what is around it
			out = p.at.Bad("", "%w", out)
		}
		if kind != nil {
			out = fmt.Errorf("%w: %w", kind, out)
		}
		return fmt.Errorf("%s: %w", operation, out)
	}
	var api smithy.APIError
	var response *smithyhttp.ResponseError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", operation, kek.ErrUnavailable, err)
	case errors.As(err, &api) && (class(api.ErrorCode()) != nil || wrong[api.ErrorCode()] != ""):
		if strings.Contains(api.ErrorMessage(), "Signature expired") || strings.Contains(api.ErrorMessage(), "Signature not yet current") {
			return fail(kek.ErrUnavailable, "") // the clock again
		}
		return fail(class(api.ErrorCode()), wrong[api.ErrorCode()])
	case errors.As(err, &response) && response.HTTPStatusCode() > 0 && response.HTTPStatusCode() < 500 && response.HTTPStatusCode() != 429:
		return fail(nil, "endpoint") // an answer, and not one of KMS
	case errors.As(err, &untrusted):
		return fail(nil, "endpoint")
	}
	// The network, or no credentials: at boot, both may come later.
	return fail(kek.ErrUnavailable, "")
}
