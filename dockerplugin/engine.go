// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// EngineSocket is where Docker's API listens.
const EngineSocket = "/var/run/docker.sock"

const (
	engineResponse = 64 << 20 // bytes; a host with thousands of containers stays far below
	localDriver    = "local"
)

// Engine looks at what Docker does with volumes without asking us: Docker creates a plain volume of its own driver whenever a plugin
// is away or an image declares a VOLUME, and a local volume of the same name shadows one of ours (DOCKER.md, plaintext by name).
// All but RemoveLocalVolume only sends GET requests.
type Engine struct {
	// Socket is the API socket; empty means EngineSocket.
	Socket string
	// Timeout bounds one look; 0 means 3 s.
	Timeout time.Duration
}

// BypassKind says how data came to lie outside voluks.
type BypassKind string

const (
	Shadow    BypassKind = "shadow"           // a local volume has the name of one of ours
	Local     BypassKind = "local-volume"     // a container keeps data on a named local volume
	Anonymous BypassKind = "anonymous-volume" // a container keeps data on a local volume that nobody named
)

// Bypass is one place where Docker keeps data in plaintext.
type Bypass struct {
	Kind        BypassKind `json:"kind"`                  // what it is
	Volume      string     `json:"volume"`                // name of the local volume
	Containers  []string   `json:"containers,omitempty"`  // names of the containers that have it
	Destination string     `json:"destination,omitempty"` // path inside the container, empty for a shadow
}

// String says it in a sentence for a person.
func (b Bypass) String() string {
	switch b.Kind {
	case Shadow:
		s := fmt.Sprintf("Docker has a plaintext local volume named %q too; containers that name it do not get the encrypted one", b.Volume)
		if len(b.Containers) > 0 {
			s += fmt.Sprintf(" (in use by %s)", strings.Join(b.Containers, ", "))
		}
		return s
	case Anonymous:
		return fmt.Sprintf("container %s keeps %s on an anonymous plaintext volume", strings.Join(b.Containers, ", "), b.Destination)
	default:
		return fmt.Sprintf("container %s keeps %s on the plaintext local volume %q", strings.Join(b.Containers, ", "), b.Destination, b.Volume)
	}
}

type engineVolume struct {
	Name   string
	Driver string
	Labels map[string]string
}

type engineContainer struct {
	ID     string `json:"Id"`
	Names  []string
	Mounts []struct{ Type, Name, Driver, Destination string }
}

func (c engineContainer) name() string {
	if len(c.Names) > 0 {
		return strings.TrimPrefix(c.Names[0], "/")
	}
	return c.ID[:min(12, len(c.ID))]
}

// Bypasses reports the local volumes that shadow one of ours and every container mount that is a local volume, named or
// anonymous, sorted. Where Docker is not installed or not running there is nothing to report, and no error. An error
// means that Docker is there and could not be asked: the answer is unknown, not "none".
func (e Engine) Bypasses(ctx context.Context, ours []string) ([]Bypass, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.Timeout, 3*time.Second))
	defer cancel()
	var volumes struct{ Volumes []engineVolume }
	// Without the filter Docker would ask every plugin for its volumes, us included.
	err := e.get(ctx, "/volumes?filters="+url.QueryEscape(`{"driver":{"`+localDriver+`":true}}`), &volumes)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask Docker for its volumes: %w", err)
	}
	var containers []engineContainer
	if err := e.get(ctx, "/containers/json?all=1", &containers); err != nil {
		return nil, fmt.Errorf("ask Docker for its containers: %w", err)
	}
	return bypasses(volumes.Volumes, containers, ours), nil
}

func bypasses(volumes []engineVolume, containers []engineContainer, ours []string) []Bypass {
	shadows := map[string]*Bypass{}
	anonymous := map[string]bool{}
	for _, v := range volumes {
		if v.Driver != localDriver {
			continue
		}
		if slices.Contains(ours, v.Name) {
			shadows[v.Name] = &Bypass{Kind: Shadow, Volume: v.Name}
		}
		_, labelled := v.Labels["com.docker.volume.anonymous"] // set by Docker 23 and later
		anonymous[v.Name] = labelled
	}
	var found []Bypass
	for _, c := range containers {
		for _, m := range c.Mounts {
			if m.Type != "volume" || m.Driver != localDriver {
				continue
			}
			if s := shadows[m.Name]; s != nil {
				s.Containers = append(s.Containers, c.name())
				continue
			}
			kind := Local
			if anonymous[m.Name] || generated(m.Name) {
				kind = Anonymous
			}
			found = append(found, Bypass{Kind: kind, Volume: m.Name, Containers: []string{c.name()}, Destination: m.Destination})
		}
	}
	for _, s := range shadows {
		slices.Sort(s.Containers)
		s.Containers = slices.Compact(s.Containers)
		found = append(found, *s)
	}
	slices.SortFunc(found, func(a, b Bypass) int {
		return strings.Compare(a.sortKey(), b.sortKey())
	})
	return found
}

func (b Bypass) sortKey() string {
	first := "1"
	if b.Kind == Shadow {
		first = "0"
	}
	return strings.Join([]string{first, strings.Join(b.Containers, ","), b.Destination, b.Volume}, "\x00")
}

// generated tells names that Docker makes up for anonymous volumes: 64 hexadecimal digits.
func generated(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// absent tells an engine that is not there from one that cannot be asked.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

func (e Engine) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := unixClient(cmp.Or(e.Socket, EngineSocket)).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &AnswerError{resp.StatusCode, resp.Status, ""}
	}
	return json.NewDecoder(io.LimitReader(resp.Body, engineResponse)).Decode(into)
}
