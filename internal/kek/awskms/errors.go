// SPDX-License-Identifier: Apache-2.0

package awskms

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

// causes are the error codes of KMS, and of STS where a role is assumed on the way, that do not tell by their HTTP status what they are. Source: the API
// references of both. Who is denied access is a matter of all settings, and of what is around them.
var causes = []kek.Cause{
	{Said: "signature expired|signature not yet current|requestexpired|requesttimetooskewed", Kind: kek.ErrUnavailable, Means: "the clock of this node is wrong, or not set yet"},
	{Said: "notfoundexception", Setting: "key_id", Kind: kek.ErrNotFound, Means: "there is no such key"},
	{Said: "disabledexception|kmsinvalidstateexception", Setting: "key_id", Kind: kek.ErrDisabled, Means: "the key is disabled, or waits for its deletion, import or replica"},
	{Said: "invalidarnexception|invalidkeyusageexception|validationexception|unsupportedoperationexception", Setting: "key_id", Means: "is not a key that can do this"},
	{Said: "invalidciphertextexception|incorrectkeyexception|incorrectkeymaterialexception", Kind: kek.ErrWrongKey, Means: "KMS cannot open it for this volume and role"},
	{Said: "accessdenied|notauthorized|optinrequired|invalidgranttoken|expiredtoken|invalidclienttokenid|invalididentitytoken|unrecognizedclient|" +
		"missingauthenticationtoken|incompletesignature|invalidsignature|signaturedoesnotmatch", Setting: ".", Kind: kek.ErrDenied, Means: "KMS or STS refuse these credentials"},
}

// classify says what an error of the SDK means. Its words are shown, since nobody can mend a policy without them; the request is not in them.
func (p *provider) classify(operation string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %w", operation, kek.ErrUnavailable, err)
	}
	said := errors.New(wire.Text([]byte(err.Error())))
	var api smithy.APIError
	if errors.As(err, &api) {
		if meant := p.at.Explain(said, causes); meant != nil {
			return fmt.Errorf("%s: %w", operation, meant)
		}
	}
	var response *smithyhttp.ResponseError
	status := 0
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	throttled := status == 429 || retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err).Bool()
	var untrusted *tls.CertificateVerificationError
	if 0 < status && status < 500 && !throttled || errors.As(err, &untrusted) {
		return fmt.Errorf("%s: %w", operation, p.at.Bad("endpoint", "%w", said)) // an answer, and not one of KMS
	}
	// The network, or no credentials: at boot, both may come later.
	return fmt.Errorf("%s: %w: %w", operation, kek.ErrUnavailable, said)
}
