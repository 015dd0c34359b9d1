// SPDX-License-Identifier: Apache-2.0

package awskms

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

// codes are the error codes of KMS, and of STS where a role is assumed on the way. Source: the API references of both.
var codes = map[string]error{
	"NotFoundException":             kek.ErrNotFound,
	"DisabledException":             kek.ErrDisabled,
	"KMSInvalidStateException":      kek.ErrDisabled, // pending deletion or import, or a replica being made
	"InvalidCiphertextException":    kek.ErrWrongKey, // also for a context that is not the one it was encrypted with
	"IncorrectKeyException":         kek.ErrWrongKey,
	"IncorrectKeyMaterialException": kek.ErrWrongKey,

	"AccessDenied":                        kek.ErrDenied,
	"AccessDeniedException":               kek.ErrDenied,
	"ExpiredToken":                        kek.ErrDenied,
	"ExpiredTokenException":               kek.ErrDenied,
	"IncompleteSignature":                 kek.ErrDenied,
	"InvalidClientTokenId":                kek.ErrDenied,
	"InvalidGrantTokenException":          kek.ErrDenied,
	"InvalidIdentityToken":                kek.ErrDenied,
	"InvalidSignatureException":           kek.ErrDenied,
	"MissingAuthenticationToken":          kek.ErrDenied,
	"MissingAuthenticationTokenException": kek.ErrDenied,
	"NotAuthorized":                       kek.ErrDenied,
	"OptInRequired":                       kek.ErrDenied,
	"SignatureDoesNotMatch":               kek.ErrDenied,
	"UnrecognizedClientException":         kek.ErrDenied,

	"DependencyTimeoutException": kek.ErrUnavailable,
	"KMSInternalException":       kek.ErrUnavailable,
	"KeyUnavailableException":    kek.ErrUnavailable,
	"InternalFailure":            kek.ErrUnavailable,
	"LimitExceededException":     kek.ErrUnavailable,
	"RequestExpired":             kek.ErrUnavailable, // this node's clock, which may not be set yet
	"RequestTimeTooSkewed":       kek.ErrUnavailable,
	"ServiceUnavailable":         kek.ErrUnavailable,
	"Throttling":                 kek.ErrUnavailable,
	"ThrottlingException":        kek.ErrUnavailable,
	"TooManyRequestsException":   kek.ErrUnavailable,
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
func (p *Provider) classify(operation string, err error) error {
	words := wire.Text([]byte(err.Error()))
	fail := func(class error, setting string) error {
		out := errors.New(words)
		switch {
		case setting != "":
			out = p.settings.bad(setting, "%s", words)
		case class == kek.ErrDenied: // who asks is a matter of the whole table, and of what is around it
			out = &kek.ConfigError{Setting: p.settings.At, Err: out}
		}
		if class != nil {
			out = fmt.Errorf("%w: %w", class, out)
		}
		return fmt.Errorf("%s: %w", operation, out)
	}
	var api smithy.APIError
	var response *smithyhttp.ResponseError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", operation, kek.ErrUnavailable, err)
	case errors.As(err, &api) && (codes[api.ErrorCode()] != nil || wrong[api.ErrorCode()] != ""):
		if strings.Contains(api.ErrorMessage(), "Signature expired") || strings.Contains(api.ErrorMessage(), "Signature not yet current") {
			return fail(kek.ErrUnavailable, "") // the clock again
		}
		return fail(codes[api.ErrorCode()], wrong[api.ErrorCode()])
	case errors.As(err, &response) && response.HTTPStatusCode() > 0 && response.HTTPStatusCode() < 500 && response.HTTPStatusCode() != 429:
		return fail(nil, "endpoint") // an answer, and not one of KMS
	case errors.As(err, &untrusted):
		return fail(nil, "endpoint")
	}
	// The network, or no credentials: at boot, both may come later.
	return fail(kek.ErrUnavailable, "")
}
