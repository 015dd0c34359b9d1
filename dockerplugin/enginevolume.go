// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// ErrNoVolume: Docker has no volume of that name.
var ErrNoVolume = errors.New("there is no such volume in Docker")

// LocalVolume is a plain volume of Docker's own driver.
type LocalVolume struct {
	Name       string   // as Docker has it
	Mountpoint string   // of its data, on the host
	Running    []string // names of running containers that have it
	Stopped    []string // of others: Docker does not remove the volume as long as they are there
}

// LocalVolume finds a plain volume of Docker. ErrNoVolume; a volume of another driver, or one that Docker only mounts when it is used, is an error.
func (e Engine) LocalVolume(ctx context.Context, name string) (LocalVolume, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.Timeout, 10*time.Second))
	defer cancel()
	v := LocalVolume{Name: name}
	var found struct {
		Driver, Mountpoint string
		Options            map[string]string
	}
	status, err := e.ask(ctx, http.MethodGet, "/volumes/"+url.PathEscape(name), &found)
	switch {
	case status == http.StatusNotFound:
		return v, ErrNoVolume
	case err != nil:
		return v, fmt.Errorf("ask Docker for the volume: %w", err)
	case found.Driver != localDriver:
		return v, fmt.Errorf("the volume is one of the driver %s, not a plain one", found.Driver)
	case len(found.Options) > 0:
		return v, errors.New("this volume is mounted from elsewhere by Docker when it is used: migrate what it mounts, as a directory")
	}
	v.Mountpoint = found.Mountpoint
	var containers []struct {
		engineContainer
		State string
	}
	if _, err := e.ask(ctx, http.MethodGet, "/containers/json?all=1", &containers); err != nil {
		return v, fmt.Errorf("ask Docker for its containers: %w", err)
	}
	for _, c := range containers {
		for _, m := range c.Mounts {
			if m.Type != "volume" || m.Name != name {
				continue
			}
			switch c.State {
			case "created", "exited", "dead":
				v.Stopped = append(v.Stopped, c.name())
			default:
				v.Running = append(v.Running, c.name())
			}
			break
		}
	}
	slices.Sort(v.Running)
	slices.Sort(v.Stopped)
	return v, nil
}

// RemoveLocalVolume makes Docker forget a plain volume; what is at its mountpoint then is removed with it.
func (e Engine) RemoveLocalVolume(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.Timeout, 60*time.Second))
	defer cancel()
	if _, err := e.LocalVolume(ctx, name); err != nil {
		return err
	}
	if _, err := e.ask(ctx, http.MethodDelete, "/volumes/"+url.PathEscape(name), nil); err != nil {
		return fmt.Errorf("make Docker forget its plain volume: %w", err)
	}
	return nil
}

// ask sends a request, and decodes the answer unless into is nil.
func (e Engine) ask(ctx context.Context, method, path string, into any) (status int, err error) {
	if method == http.MethodGet && into != nil {
		err := e.get(ctx, path, into)
		var answered *statusError
		if errors.As(err, &answered) {
			status = answered.code
		}
		return status, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, nil)
	if err != nil {
		return 0, err
	}
	resp, err := unixClient(cmp.Or(e.Socket, EngineSocket)).Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return resp.StatusCode, fmt.Errorf("docker answered %s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	return resp.StatusCode, nil
}

// statusError is an answer that is none.
type statusError struct {
	code   int
	status string
}

func (e *statusError) Error() string { return "docker answered " + e.status }
