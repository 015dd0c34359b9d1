// SPDX-License-Identifier: Apache-2.0

// Package dockerplugin is the face that Docker and Podman see: the volume plugin protocol, version 1, on a unix socket.
//
// The eight calls are decoded and answered by github.com/docker/go-plugins-helpers. That library gives a driver no context, no limit of
// the request, no deadline, no graceful stop and no peer, so each request first passes an HTTP server of ours (Server), which reads it
// whole, starts an operation (its id, its deadline, who asks) and hands it to a handler of the library, made for this one request, over a connection in memory.
//
// Engine looks the other way, at what Docker did with volumes without asking the plugin.
package dockerplugin
