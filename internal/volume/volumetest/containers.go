// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

type containers struct{ *process }

func (p containers) At(path string) volume.Container { return &box{p.process, path} }

func (p containers) Foreign(path string) volume.Container { return foreignBox{&box{p.process, path}} }

// A foreignBox says that somebody else formatted it.
type foreignBox struct{ *box }

func (foreignBox) Foreign() bool { return true }

func (p containers) Close(name string) error {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	m := p.m.mappings[name]
	if m == nil {
		return fmt.Errorf("close %s: %w", name, luks.ErrNotActive)
	}
	if p.m.uses(m) {
		return fmt.Errorf("close %s: %w", name, luks.ErrBusy)
	}
	done, err := p.step("close %s", name)
	if err != nil {
		return err
	}
	delete(p.m.mappings, name)
	p.m.autoclear(m.lower)
	done()
	return p.alive()
}

// uses tells whether the mapping is mounted anywhere.
func (f *Machine) uses(m *mapping) bool {
	for _, mount := range f.mounts {
		if mount.mapping == m {
			return true
		}
	}
	for _, ns := range f.namespaces {
		for _, mount := range ns.mounts {
			if mount.mapping == m {
				return true
			}
		}
	}
	return false
}

// box is a container by its path.
type box struct {
	*process
	path string
}

// get finds the container, or what a reader of its header would say instead.
func (b *box) get() (*disk, *container, error) {
	d, _, err := b.m.disk(b.path)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case d.box == nil:
		return d, nil, header.ErrNotLUKS
	case d.box.damaged:
		return d, nil, &header.DamagedError{Primary: header.ErrChecksum, Secondary: header.ErrChecksum}
	}
	return d, d.box, nil
}

func (b *box) Header() (*header.Header, error) {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, c, err := b.get()
	if err != nil {
		return nil, err
	}
	return c.header(d.size), nil
}

// Format takes three writes, as the real one does: the areas are wiped, the header appears, the slot is added.
func (b *box) Format(p luks.FormatParams) error {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	d, l, err := b.m.disk(b.path)
	if err != nil {
		return err
	}
	if d.box != nil && d.box.managed() {
		b.m.misuse("format over container %s, which has managed tokens", d.box.uuid)
		return errors.New("misuse")
	}
	for _, m := range b.m.mappings {
		if m.lower == l {
			b.m.misuse("format under the open mapping %s", m.name)
		}
	}
	done, err := b.step("format %s: wipe", p.UUID)
	if err != nil {
		return err
	}
	d.junk, d.box = true, nil
	done()
	if done, err = b.step("format %s: header", p.UUID); err != nil {
		return err
	}
	d.junk = false
	d.box = &container{
		uuid: p.UUID, label: p.Label, subsystem: p.Subsystem, sectorSize: p.SectorSize, epoch: 1,
		slots: map[int]slot{}, tokens: map[int]json.RawMessage{},
	}
	done()
	if done, err = b.step("format %s: slot %d", p.UUID, p.Slot); err != nil {
		return err
	}
	d.box.add(p.Slot, p.Key, luks.KDFRandomKey)
	done()
	return b.alive()
}

func (c *container) add(number int, key *secret.Key, kdf luks.KDF) {
	s := slot{key: sha256.Sum256(key.Bytes()), salt: make([]byte, 32), kdf: kdf.Type}
	rand.Read(s.salt)
	c.slots[number] = s
	c.epoch++
}

// change does one write to the header.
func (b *box) change(what string, f func(c *container) error) error {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	_, c, err := b.get()
	if err != nil {
		return err
	}
	before := *c
	before.slots, before.tokens = maps.Clone(c.slots), maps.Clone(c.tokens)
	if err := f(c); err != nil {
		*c = before
		return err
	}
	done, err := b.step("%s: %s", c.uuid, what)
	if err != nil {
		*c = before
		return err
	}
	c.epoch++
	done()
	return b.alive()
}

func (b *box) AddSlot(auth luks.Auth, number int, key *secret.Key, kdf luks.KDF) error {
	return b.change(fmt.Sprintf("add slot %d", number), func(c *container) error {
		if err := c.try(auth.Slot, auth.Key); err != nil {
			return err
		}
		if _, taken := c.slots[number]; taken {
			return luks.ErrSlotOccupied
		}
		c.add(number, key, kdf)
		return nil
	})
}

func (b *box) KillSlot(number int) error {
	return b.change(fmt.Sprintf("kill slot %d", number), func(c *container) error {
		if _, exists := c.slots[number]; !exists {
			return luks.ErrNoSlot
		}
		if len(c.slots) == 1 {
			b.m.misuse("the last slot of %s is killed", c.uuid)
		}
		delete(c.slots, number)
		for id, raw := range c.tokens {
			c.tokens[id] = without(raw, number)
		}
		return nil
	})
}

func (b *box) Forget(number int) error {
	return b.change(fmt.Sprintf("forget slot %d", number), func(c *container) error {
		if _, exists := c.slots[number]; !exists {
			return luks.ErrNoSlot
		}
		if c.managed() {
			b.m.misuse("a slot of volume %s is forgotten", c.uuid)
		}
		delete(c.slots, number)
		return nil
	})
}

// without is a token that does not name a slot any more, which is what libcryptsetup makes of it when it destroys the slot.
func without(raw json.RawMessage, number int) json.RawMessage {
	var members map[string]json.RawMessage
	var slots []string
	if json.Unmarshal(raw, &members) != nil || json.Unmarshal(members["keyslots"], &slots) != nil {
		return raw
	}
	slots = slices.DeleteFunc(slots, func(s string) bool { return s == fmt.Sprint(number) })
	members["keyslots"], _ = json.Marshal(append([]string{}, slots...))
	out, err := json.Marshal(members)
	if err != nil {
		return raw
	}
	return out
}

func (c *container) try(number int, key *secret.Key) error {
	ok, exists := c.opens(number, key)
	switch {
	case !exists:
		return luks.ErrNoSlot
	case !ok:
		return luks.ErrWrongKey
	}
	return nil
}

func (b *box) TestSlot(number int, key *secret.Key) error {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	_, c, err := b.get()
	if err != nil {
		return err
	}
	return c.try(number, key)
}

func (b *box) Witness(number int, key *secret.Key) error { return b.TestSlot(number, key) }

// Syncer opens the file that stands for the image: here everything is durable as soon as it is written.
func (b *box) Syncer() (*luks.Syncer, error) {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	_, l, err := b.m.disk(b.path)
	if err != nil {
		return nil, err
	}
	if l != nil {
		return luks.At(l.path).Syncer()
	}
	return luks.At(b.path).Syncer()
}

func (b *box) SetToken(id int, raw []byte) (int, error) {
	err := b.change(fmt.Sprintf("set token %s", tokenType(raw)), func(c *container) error {
		for id < 0 || c.tokens[id] != nil && id >= header.MaxTokens {
			id = 0
			for c.tokens[id] != nil {
				id++
			}
		}
		if id >= header.MaxTokens || !json.Valid(raw) {
			return errors.New("invalid argument")
		}
		var t struct {
			Type     string
			Keyslots []string
		}
		if err := json.Unmarshal(raw, &t); err != nil || t.Type == "" || t.Keyslots == nil {
			return errors.New("invalid argument: a token needs type and keyslots")
		}
		for _, s := range t.Keyslots {
			var number int
			fmt.Sscan(s, &number)
			if _, exists := c.slots[number]; !exists {
				return fmt.Errorf("invalid argument: a token names slot %d, which is empty", number)
			}
		}
		c.tokens[id] = json.RawMessage(append([]byte(nil), raw...))
		return nil
	})
	return id, err
}

func (b *box) RemoveToken(id int) error {
	return b.change(fmt.Sprintf("remove token %d", id), func(c *container) error {
		if c.tokens[id] == nil {
			return errors.New("no such token")
		}
		delete(c.tokens, id)
		return nil
	})
}

func (b *box) SetFlags(f luks.Flags) error {
	return b.change("set flags", func(c *container) error { c.flags = f; return nil })
}

func (b *box) Open(p luks.OpenParams) error {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	d, c, err := b.get()
	if err != nil {
		return err
	}
	_, l, _ := b.m.disk(b.path)
	if l == nil {
		return fmt.Errorf("open %s: not a block device", b.path)
	}
	if err := c.header(d.size).Strict(p.Expect); err != nil {
		return err
	}
	if err := c.try(p.Slot, p.Key); err != nil {
		return err
	}
	for _, m := range b.m.mappings {
		if m.box == c {
			b.m.misuse("container %s is opened twice", c.uuid)
		}
		if m.name == p.Name {
			return fmt.Errorf("open %s: device exists", p.Name)
		}
	}
	done, err := b.step("open %s", p.Name)
	if err != nil {
		return err
	}
	m := &mapping{name: p.Name, uuid: c.uuid, lower: l, box: c, length: l.size - backing.HeaderSize, options: p.Flags()}
	for taken := true; taken; {
		taken = false
		for _, other := range b.m.mappings {
			if other.minor == m.minor {
				m.minor++
				taken = true
			}
		}
	}
	b.m.mappings[p.Name] = m
	done()
	return b.alive()
}

func (b *box) Resize(p luks.OpenParams) error {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	d, c, err := b.get()
	if err != nil {
		return err
	}
	if err := c.header(d.size).Strict(p.Expect); err != nil {
		return err
	}
	if err := c.try(p.Slot, p.Key); err != nil {
		return err
	}
	m := b.m.mappings[p.Name]
	if m == nil {
		return fmt.Errorf("resize %s: %w", p.Name, sys.ErrNotExist)
	}
	length := m.lower.size - backing.HeaderSize
	if m.length == length {
		return nil
	}
	if length < m.length {
		b.m.misuse("%s is made smaller", p.Name)
	}
	done, err := b.step("resize %s", p.Name)
	if err != nil {
		return err
	}
	m.length = length
	done()
	return b.alive()
}
