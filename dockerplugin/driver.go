// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"errors"
	"time"

	helpers "github.com/docker/go-plugins-helpers/volume"

	"github.com/voluks/voluks/internal/volume"
)

// driver answers one request.
type driver struct {
	*operation
	volumes Volumes
	parse   ParseFunc
	ready   <-chan struct{}
}

func (d *driver) run(verb, name string, work func(c *call) error, undo func() error) error {
	return d.operation.run(verb, name, d.ready, work, undo)
}

func (d *driver) Create(r *helpers.CreateRequest) error {
	return d.run("create", r.Name, func(c *call) error {
		spec, err := d.parse(r.Name, r.Options)
		if err != nil {
			if volume.CodeOf(err) == volume.CodeInternal {
				err = c.failed(volume.CodeInvalid, err)
			}
			return err
		}
		_, created, err := d.volumes.Create(d.ctx, spec)
		if err == nil && created {
			c.log.Info("created", "size", spec.Size, "fs", spec.FS)
		}
		return err
	}, nil) // a volume that is there after all is what the next Create asks for; removing it could hit one that a retry already uses
}

func (d *driver) Remove(r *helpers.RemoveRequest) error {
	return d.run("remove", r.Name, func(c *call) error {
		err := d.volumes.Remove(d.ctx, r.Name)
		if err == nil {
			c.log.Info("removed")
		}
		return err
	}, nil)
}

func (d *driver) Mount(r *helpers.MountRequest) (*helpers.MountResponse, error) {
	var path string
	err := d.run("mount", r.Name, func(c *call) (err error) {
		path, err = d.volumes.Mount(d.ctx, r.Name, d.peer.holder(r.ID))
		if err == nil {
			c.log.Info("mounted", "holder", r.ID, "path", path)
		}
		return err
	}, func() error {
		// Docker believes that this mount failed and never sends its Unmount.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return d.volumes.Unmount(ctx, r.Name, r.ID)
	})
	if err != nil {
		return nil, err
	}
	return &helpers.MountResponse{Mountpoint: path}, nil
}

// Unmount succeeds once the holder is gone, even if a container that outlives its dockerd, or somebody else, keeps the volume open: the agent closes
// it later, and Docker could do nothing about it.
func (d *driver) Unmount(r *helpers.UnmountRequest) error {
	return d.run("unmount", r.Name, func(c *call) error {
		err := d.volumes.Unmount(d.ctx, r.Name, r.ID)
		var held *volume.HeldError
		if errors.As(err, &held) && held.Closing {
			c.log.Warn("unmounted, not closed yet", "holder", r.ID, "reason", err)
			return nil
		}
		if err == nil {
			c.log.Info("unmounted", "holder", r.ID)
		}
		return err
	}, nil)
}

// Path answers with an empty path for a volume that is not mounted: that is its state, not a failure.
func (d *driver) Path(r *helpers.PathRequest) (*helpers.PathResponse, error) {
	var path string
	err := d.run("path", r.Name, func(c *call) (err error) {
		path, err = d.volumes.Path(d.ctx, r.Name)
		if errors.Is(err, volume.ErrNotMounted) {
			path, err = "", nil
		}
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	return &helpers.PathResponse{Mountpoint: path}, nil
}

// Get does not know a volume whose making was interrupted: told of it, Docker would take it for complete and never send the Create that finishes it.
func (d *driver) Get(r *helpers.GetRequest) (*helpers.GetResponse, error) {
	var info volume.Info
	err := d.run("inspect", r.Name, func(c *call) (err error) {
		info, err = d.volumes.Inspect(d.ctx, r.Name)
		if err == nil && !info.Finished() {
			err = c.failed(volume.CodeNotFound, errors.New("its creation was interrupted; create it again with the same options"))
		}
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	return &helpers.GetResponse{Volume: describe(info, time.Now())}, nil
}

// List never answers null, which some clients do not take for an empty list.
func (d *driver) List() (*helpers.ListResponse, error) {
	list := []*helpers.Volume{}
	err := d.run("list", "", func(*call) error {
		infos, err := d.volumes.List(d.ctx)
		for _, info := range infos {
			if info.Finished() {
				list = append(list, &helpers.Volume{Name: info.Name, Mountpoint: info.Mountpoint, CreatedAt: created(info)})
			}
		}
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	return &helpers.ListResponse{Volumes: list}, nil
}

// Capabilities says that the volumes belong to this node alone.
func (d *driver) Capabilities() *helpers.CapabilitiesResponse {
	d.finish()
	return &helpers.CapabilitiesResponse{Capabilities: helpers.Capability{Scope: "local"}}
}
