// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"bytes"
	"errors"
	"fmt"
)

// SetVolume writes the token of the volume as a whole, durably, or replaces it. It is called once the
// file system exists: from then on the container is never formatted, and Complete leaves it alone.
// The UUID is set here, and the highest generation never falls.
//
//	write       | a crash after it leaves
//	nothing     | the volume without the token (or with the old one): call again
//	the token   | all of it
//
// It refuses a header that State cannot fully read, or that has no agent slot.
func SetVolume(c Container, v VolumeToken) error {
	h, err := c.Header()
	if err != nil {
		return fmt.Errorf("describe the volume: %w", err)
	}
	slots, err := State(h)
	if err != nil {
		return fmt.Errorf("describe the volume: %w", err)
	}
	if len(slots.agent) == 0 {
		return fmt.Errorf("describe the volume: %w", ErrNoAgentSlot)
	}
	v.UUID, v.HighestGeneration = h.UUID, max(v.HighestGeneration, slots.highest())
	id := -1
	if slots.Volume != nil {
		id = slots.tokens[tokenKey(TypeVolume, -1)]
		v.HighestGeneration = max(v.HighestGeneration, slots.Volume.HighestGeneration)
	}
	token, err := v.Encode()
	if err != nil {
		return fmt.Errorf("describe the volume: %w", err)
	}
	if err := room(h, id, token); err != nil {
		return fmt.Errorf("describe the volume: %w", err)
	}
	w, err := write(c, nil)
	if err != nil {
		return fmt.Errorf("describe the volume: %w", err)
	}
	defer w.close()
	if id >= 0 && sameJSON(h.Tokens[id].JSON, token) {
		// It may have been written by one who crashed before it was durable.
		return w.syncer.Sync()
	}
	if err := w.token(id, token); err != nil {
		return fmt.Errorf("describe the volume: %w", err)
	}
	return readBack(c, token)
}

// readBack checks that a token is in the header as it was written.
func readBack(c Container, tokens ...[]byte) error {
	h, err := c.Header()
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	for _, want := range tokens {
		found := false
		for _, token := range h.Tokens {
			found = found || bytes.Equal(token.JSON, want) || sameJSON(token.JSON, want)
		}
		if !found {
			return errors.New("read back: a token is not in the header as it was written")
		}
	}
	return nil
}
