// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"

	"github.com/voluks/voluks/internal/volume"
)

// Volumes is what the plugin needs of the volumes of a node. Every method may be called at the same time as any other.
// Each ends soon after its context does, having undone what it began; errors are *volume.Error.
type Volumes interface {
	// Create makes the volume, or finishes one whose making was interrupted. A volume that is there with the same options is success.
	Create(ctx context.Context, spec volume.Spec) (info volume.Info, created bool, err error)
	// Mount opens and mounts the volume if it is not, records the holder, and returns the directory for the container, proven to be encrypted.
	// The same holder twice is success.
	Mount(ctx context.Context, name string, h volume.Holder) (path string, err error)
	// Unmount forgets the holder and closes the volume after the last one. An unknown holder is success.
	Unmount(ctx context.Context, name, holderID string) error
	// Remove moves the volume to the tombstones. It fails while anything uses the volume.
	Remove(ctx context.Context, name string) error
	// Path returns the proven directory, or an error that matches volume.ErrNotMounted.
	Path(ctx context.Context, name string) (string, error)
	// Inspect describes one volume, and touches no device.
	Inspect(ctx context.Context, name string) (volume.Info, error)
	// List is Inspect of all volumes, unfinished ones included.
	List(ctx context.Context) ([]volume.Info, error)
}

// ParseFunc turns the options of docker volume create -o into a specification; volume.ParseOptions with the node's defaults.
// Its errors are meant for the person who wrote the options.
type ParseFunc func(name string, options map[string]string) (volume.Spec, error)
