// SPDX-License-Identifier: Apache-2.0

package share

import (
	"fmt"

	"github.com/voluks/voluks/internal/secret"
)

// Page returns the share as its owner gets it, on paper or in a file: what it is and how it is used, as comments, and the text. Parse reads it as it stands.
// The caller wipes it.
func (s *Share) Page() (*secret.Key, error) {
	text, err := s.Text()
	if err != nil {
		return nil, err
	}
	defer text.Wipe()
	head := fmt.Sprintf(`# voluks recovery share %d of %d
#
# Any %d of the %d shares give back the recovery identity %s (%s),
# which opens every volume of its node. Fewer give nothing away. Keep this one
# where the others are not.
#
# to check it:      voluks recovery check
# to combine them:  voluks recovery combine
# splitting:        %s

`, s.Number, s.Total, s.Needed, s.Total, s.Fingerprint, s.Kind, s.Set())
	page, err := secret.New(len(head) + text.Len() + 1)
	if err != nil {
		return nil, err
	}
	b := append(page.Bytes()[:0], head...)
	b = append(b, text.Bytes()...)
	_ = append(b, '\n')
	return page, nil
}
