// SPDX-License-Identifier: Apache-2.0

// Package awskms is the key provider whose key is a symmetric key of AWS KMS.
//
// KMS makes W (GenerateDataKey) and ties its wrap to volume and role by the encryption context, which it authenticates, and writes to the account's
// log. The key that is configured is named in each call, so that a wrap cannot choose another one. Copies of W that cannot be wiped stay in the
// buffers of the SDK, net/http and crypto/tls until the process ends; its result is wiped.
package awskms

import (
	"cmp"
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// maxBlob is the greatest ciphertext that KMS takes.
const maxBlob = 6144

// provider wraps with one KMS key.
type provider struct {
	at       kek.Table
	settings config.AWSKMS
	client   *kms.Client
	ref      kek.Ref
}

// New judges the settings with what the standard chain has on this node; it asks neither KMS nor for credentials. Errors are, or wrap, a
// *kek.ConfigError.
func New(at kek.Table, s config.AWSKMS) (kek.Provider, error) {
	id, region, err := key(at, s.KeyID)
	if err != nil {
		return nil, err
	}
	s.Region = cmp.Or(s.Region, region)
	client, err := client(at, s)
	if err != nil {
		return nil, err
	}
	return &provider{at, s, client, kek.Ref{Provider: "awskms", ID: id}}, nil
}

// Ref names the key by its ID, which is the same in each region that has a replica. What KMS rotates under it is its version, and KMS's to choose.
func (p *provider) Ref() kek.Ref { return p.ref }

// Generate has KMS make W.
func (p *provider) Generate(ctx context.Context, b kek.Binding) (*secret.Key, []byte, kek.Ref, error) {
	if err := b.Validate(); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	out, err := p.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &p.settings.KeyID, NumberOfBytes: aws.Int32(kek.KeySize), EncryptionContext: encryptionContext(b),
	})
	if err != nil {
		return nil, nil, kek.Ref{}, p.classify("generate a data key", err)
	}
	ref, err := p.wrapped(out.CiphertextBlob, out.KeyId, out.KeyMaterialId)
	if err != nil {
		clear(out.Plaintext)
		return nil, nil, kek.Ref{}, err
	}
	w, err := p.at.Key("key_id", out.Plaintext)
	return w, out.CiphertextBlob, ref, err
}

// Unwrap has KMS decrypt W.
func (p *provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if err := p.mine(b, ref, wrap); err != nil {
		return nil, err
	}
	out, err := p.client.Decrypt(ctx, &kms.DecryptInput{KeyId: &p.settings.KeyID, CiphertextBlob: wrap, EncryptionContext: encryptionContext(b)})
	if err != nil {
		return nil, p.classify("decrypt", err)
	}
	return p.at.Key("key_id", out.Plaintext)
}

// Rewrap has KMS encrypt W anew, with the newest material of the key; W does not leave KMS.
func (p *provider) Rewrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) ([]byte, kek.Ref, error) {
	if err := p.mine(b, ref, wrap); err != nil {
		return nil, kek.Ref{}, err
	}
	out, err := p.client.ReEncrypt(ctx, &kms.ReEncryptInput{
		CiphertextBlob: wrap, SourceKeyId: &p.settings.KeyID, DestinationKeyId: &p.settings.KeyID,
		SourceEncryptionContext: encryptionContext(b), DestinationEncryptionContext: encryptionContext(b),
	})
	if err != nil {
		return nil, kek.Ref{}, p.classify("re-encrypt", err)
	}
	if ref, err = p.wrapped(out.CiphertextBlob, out.KeyId, out.DestinationKeyMaterialId); err != nil {
		return nil, kek.Ref{}, err
	}
	return out.CiphertextBlob, ref, nil
}

// encryptionContext is shown in CloudTrail, and can be demanded by key policies: docs/key-providers.md has one.
func encryptionContext(b kek.Binding) map[string]string {
	return map[string]string{"voluks:volume": b.VolumeUUID, "voluks:role": b.Role}
}

func (p *provider) mine(b kek.Binding, ref kek.Ref, wrap []byte) error {
	if len(wrap) > maxBlob {
		wrap = nil
	}
	return p.ref.CanOpen(b, ref, wrap)
}

// wrapped names the key and its material that an answer says it was wrapped with.
func (p *provider) wrapped(blob []byte, keyID, material *string) (kek.Ref, error) {
	if match := keyARN().FindStringSubmatch(aws.ToString(keyID)); match == nil || match[2] != p.ref.ID {
		return kek.Ref{}, p.at.Bad("key_id", "KMS used another key than was asked for: %q", aws.ToString(keyID))
	}
	ref := p.ref
	ref.Version = aws.ToString(material)
	if len(blob) == 0 || len(blob) > maxBlob {
		return kek.Ref{}, errors.New("KMS returned no ciphertext")
	}
	return ref, ref.Validate()
}
