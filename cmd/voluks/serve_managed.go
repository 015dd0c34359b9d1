// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// managedVolumes are the volumes of a managed plugin of Docker: the host's, but what is mounted has a way to go until Docker sees it.
type managedVolumes struct {
	dockerplugin.Volumes
	dir *sys.HostDir
}

// joinHost lets what a managed plugin mounts show on the host. Everything else of the host is there by the plugin's config.json, at the same paths.
func (e *env) joinHost() (*sys.HostDir, error) {
	mounts := e.paths().MountsDir()
	if err := os.MkdirAll(mounts, 0o711); err != nil {
		return nil, err
	}
	return sys.JoinHost(mounts)
}

// Mount implements dockerplugin.Volumes. The path is proven on the host; Docker looks for it below a directory of its own.
func (v *managedVolumes) Mount(ctx context.Context, name string, h volume.Holder) (string, error) {
	if err := v.dir.Show(); err != nil {
		return "", &volume.Error{Code: volume.CodeInternal, Op: "mount", Volume: name, Err: err}
	}
	return v.Volumes.Mount(ctx, name, h)
}
