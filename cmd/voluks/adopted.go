// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// adoptedNames are the names of the devices that were adopted.
func (e *env) adoptedNames() ([]string, error) {
	notes, err := filepath.Glob(e.adoptedFile("*"))
	for i, note := range notes {
		notes[i] = strings.TrimSuffix(filepath.Base(note), ".json")
	}
	return notes, err
}

// findAdopted is where the adopted device of that name is now, and its header. An error wraps fs.ErrNotExist if it is not here.
func (e *env) findAdopted(name string) (volume.Adopted, *header.Header, error) {
	d, err := e.adopted(name)
	if err != nil {
		return volume.Adopted{}, nil, err
	}
	at := volume.Adopted{Name: name, UUID: d.UUID}
	var missing error
	for _, path := range []string{filepath.Join("/dev/disk/by-uuid", d.UUID), d.Path} {
		if path == "" {
			continue
		}
		h, err := luks.Foreign(path).Header()
		switch {
		case err == nil && h.UUID == d.UUID:
			at.Path = path
			return at, h, nil
		case err == nil:
			err = fmt.Errorf("the container on %s is %s by now: %w", path, h.UUID, fs.ErrNotExist)
		}
		if missing == nil || !errors.Is(err, fs.ErrNotExist) {
			missing = err
		}
	}
	return at, nil, fmt.Errorf("%w (if it is gone for good, remove %s)", missing, e.adoptedFile(name))
}

// adoptedJob is a change of the agent slot of an adopted device. One that is not here is left out, and told: a disk may lie in a drawer.
func (e *env) adoptedJob(name string) job {
	at, h, err := e.findAdopted(name)
	j := job{Volume: name, Adopted: true, at: at}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		j.Skipped = "the device is not here"
	case err == nil:
		j.look(h)
	} // whatever else is wrong, the operation will find and tell
	return j
}

// deviceJob is adoptedJob for a device that is named by its path.
func (e *env) deviceJob(path string) (job, error) {
	h, err := luks.Foreign(path).Header()
	where, err2 := filepath.Abs(path) // a worker stands elsewhere
	if err := errors.Join(err, err2); err != nil {
		return job{}, deviceError("rotate", path, err)
	}
	j := job{Volume: path, Adopted: true, at: volume.Adopted{Name: path, UUID: h.UUID, Path: where}}
	slots, err := keyslot.State(h)
	if err != nil {
		return job{}, deviceError("rotate", path, err)
	}
	switch {
	case slots.Volume != nil:
		err = fmt.Errorf("it is the volume %q, and no device of the host", slots.Volume.Name)
	case !slots.Managed():
		err = fmt.Errorf("this node has no slot of its own there: voluks keyslot adopt %s makes one", path)
	}
	if err != nil {
		return job{}, &volume.Error{Code: volume.CodeInvalid, Op: "rotate " + path, Err: err}
	}
	j.look(h)
	return j, nil
}

// look notes how old the keys are.
func (j *job) look(h *header.Header) {
	slots, err := keyslot.State(h)
	if err != nil {
		return
	}
	for _, s := range slots.Slots {
		j.info.Slots = append(j.info.Slots, volume.SlotInfo{Number: s.Number, Role: s.Role, Generation: s.Generation, Created: s.Created})
	}
}

// agentJobs are jobs for what has an agent slot: volumes, and adopted devices by their name or their path. No names are all.
func (e *env) agentJobs(ctx context.Context, names []string) ([]job, error) {
	adopted, err := e.adoptedNames()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		jobs, err := e.jobs(ctx, nil)
		for _, name := range adopted {
			jobs = append(jobs, e.adoptedJob(name))
		}
		return jobs, err
	}
	var jobs []job
	for _, name := range names {
		if isPath(name) {
			j, err := e.deviceJob(name)
			if err != nil {
				return nil, err
			}
			jobs = append(jobs, j)
			continue
		}
		some, err := e.jobs(ctx, []string{name})
		if volume.CodeOf(err) == volume.CodeNotFound && slices.Contains(adopted, name) {
			some, err = []job{e.adoptedJob(name)}, nil
		}
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, some...)
	}
	return jobs, nil
}

// adoptedUse says which keys an adopted device needs.
func (e *env) adoptedUse(use *volume.KeyUse) error {
	at, h, err := e.findAdopted(use.Volume)
	use.UUID = at.UUID
	if err != nil {
		return err
	}
	slots, err := keyslot.State(h)
	use.Keys = slots.Keys()
	for _, slot := range slots.Slots {
		use.History = append(use.History, slot.History...)
		use.Former = append(use.Former, slot.Former...)
	}
	return err
}
