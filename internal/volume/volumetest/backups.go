// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks/header"
)

// snapshot is a backup of a header on the machine's own disk.
type snapshot struct {
	image *headerbackup.Image
	box   container
}

// Backups are the machine's header backups as this process sees them. Each write of the real ones is a step.
func (p *Process) Backups() volume.Backups { return backups{p.p} }

type backups struct{ *process }

// Backups of the container with that UUID, the oldest first.
func (f *Machine) Backups(uuid string) []*headerbackup.Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	var images []*headerbackup.Image
	for _, s := range f.backups[uuid] {
		images = append(images, s.image)
	}
	return images
}

// KeepBackups copies the backups that there are to where voluks does not look for them, so that they can be restored after they were destroyed.
func (f *Machine) KeepBackups(uuid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.copied = append(f.copied, f.backups[uuid]...)
}

func generationOf(h *header.Header) uint64 {
	s, _ := keyslot.State(h)
	return s.Generation()
}

// take is Take; the machine is locked.
func (b backups) take(d *disk, c *container) (*headerbackup.Backup, error) {
	done, err := b.step("back up the header of %s", c.uuid)
	if err != nil {
		return nil, err
	}
	s := snapshot{image: &headerbackup.Image{Header: c.header(d.size)}, box: *c}
	s.box.slots, s.box.tokens = maps.Clone(c.slots), maps.Clone(c.tokens)
	b.m.backups[c.uuid] = append(b.m.backups[c.uuid], s)
	done()
	return &headerbackup.Backup{UUID: c.uuid, Name: headerbackup.Name{Generation: generationOf(s.image.Header), Epoch: c.epoch}}, b.alive()
}

func (b backups) Renew(_ *keyslot.Keyring, device, uuid string) (*headerbackup.Report, error) {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, c, err := (&box{b.process, device}).get()
	if err != nil {
		return nil, err
	}
	taken, err := b.take(d, c)
	if err != nil {
		return nil, err
	}
	r := &headerbackup.Report{UUID: uuid, Kept: taken.Name.String()}
	for len(b.m.backups[uuid]) > 1 {
		done, err := b.step("destroy a backup of %s", uuid)
		if err != nil {
			return r, err
		}
		b.m.backups[uuid] = b.m.backups[uuid][1:]
		r.Destroyed = append(r.Destroyed, headerbackup.Gone{})
		done()
	}
	return r, b.alive()
}

func (b backups) Ensure(_ *keyslot.Keyring, device string, h *header.Header) error {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	if slices.ContainsFunc(b.m.backups[h.UUID], func(s snapshot) bool { return s.image.Header.Epoch == h.Epoch }) {
		return nil
	}
	d, c, err := (&box{b.process, device}).get()
	if err == nil {
		_, err = b.take(d, c)
	}
	return err
}

// Restore writes three times: the backup of what is there, a header that is half there, all of it.
func (b backups) Restore(_ *keyslot.Keyring, device string, image *headerbackup.Image, o headerbackup.RestoreOptions) (*headerbackup.Restored, error) {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if image.Header.UUID != o.Expect.UUID {
		return nil, &headerbackup.OtherVolumeError{Backup: image.Header.UUID, Volume: o.Expect.UUID}
	}
	d, l, err := b.m.disk(device)
	if err != nil {
		return nil, err
	}
	for _, m := range b.m.mappings {
		if m.lower == l && l != nil {
			b.m.misuse("restore under the open mapping %s", m.name)
		}
	}
	all := append(slices.Clone(b.m.copied), b.m.backups[image.Header.UUID]...)
	i := slices.IndexFunc(all, func(s snapshot) bool { return s.image == image })
	if i < 0 {
		return nil, fmt.Errorf("restore: %w", headerbackup.ErrNone)
	}
	saved := all[i].box
	r := &headerbackup.Restored{Generation: generationOf(image.Header), Epoch: d.box.epoch + 1}
	known := o.KnownGeneration
	if !d.box.damaged {
		known = max(known, generationOf(d.box.header(d.size)))
	}
	if r.Generation < known {
		r.Older = &headerbackup.OlderError{Generation: r.Generation, KnownGeneration: known}
		if !o.AcceptOlder {
			return nil, r.Older
		}
	}
	if !d.box.damaged {
		if r.Saved, err = b.take(d, d.box); err != nil {
			return nil, err
		}
	}
	done, err := b.step("restore %s: half", saved.uuid)
	if err != nil {
		return nil, err
	}
	d.box.damaged = true
	done()
	if done, err = b.step("restore %s", saved.uuid); err != nil {
		return nil, err
	}
	d.box.damaged, d.box.epoch = false, r.Epoch
	d.box.slots, d.box.tokens = maps.Clone(saved.slots), maps.Clone(saved.tokens)
	done()
	return r, b.alive()
}

// Destroy takes one write for each backup.
func (b backups) Destroy(uuid string) (*headerbackup.Report, error) {
	unlock, err := b.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := &headerbackup.Report{UUID: uuid}
	for len(b.m.backups[uuid]) > 0 {
		done, err := b.step("destroy a backup of %s", uuid)
		if err != nil {
			return r, err
		}
		b.m.backups[uuid] = b.m.backups[uuid][1:]
		r.Destroyed = append(r.Destroyed, headerbackup.Gone{Name: uuid, How: headerbackup.OverwrittenInPlace})
		done()
	}
	return r, b.alive()
}
