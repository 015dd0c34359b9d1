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

// OtherDriverError is a volume that is no plain one.
type OtherDriverError struct{ Driver string }

// Error implements error.
func (e *OtherDriverError) Error() string {
	return fmt.Sprintf("the volume is one of the driver %s, not a plain one", e.Driver)
}

// LocalVolume is a plain volume of Docker's own driver.
type LocalVolume struct {
	Name       string   // as Docker has it
	Mountpoint string   // of its data, on the host
	Running    []string // names of running containers that have it
	Stopped    []string // of others: Docker does not remove the volume as long as they are there
}

// LocalVolume finds a plain volume of Docker. ErrNoVolume; *OtherDriverError; one that Docker only mounts when it is used is an error.
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
		return v, &OtherDriverError{found.Driver}
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

// RemoveLocalVolume makes Docker forget a plain volume; what is at its mountpoint then is removed with it. One that Docker does not have any more is success.
// An *AnswerError is a refusal: Docker has the volume still, and is done with it. After any other error Docker may be removing it at this moment.
func (e Engine) RemoveLocalVolume(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.Timeout, 60*time.Second))
	defer cancel()
	_, err := e.LocalVolume(ctx, name)
	if err == nil {
		_, err = e.ask(ctx, http.MethodDelete, "/volumes/"+url.PathEscape(name), nil)
	}
	var answer *AnswerError
	var other *OtherDriverError // it was ours that Docker found by that name
	switch {
	case errors.Is(err, ErrNoVolume), errors.As(err, &other), errors.As(err, &answer) && answer.Code == http.StatusNotFound:
		return nil
	case err != nil:
		return fmt.Errorf("make Docker forget its plain volume: %w", err)
	}
	return nil
}

// ask sends a request, and decodes the answer unless into is nil.
func (e Engine) ask(ctx context.Context, method, path string, into any) (status int, err error) {
	if method == http.MethodGet && into != nil {
		err := e.get(ctx, path, into)
		var answer *AnswerError
		if errors.As(err, &answer) {
			status = answer.Code
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
		return resp.StatusCode, &AnswerError{resp.StatusCode, resp.Status, strings.TrimSpace(string(b))}
	}
	return resp.StatusCode, nil
}

// AnswerError is an answer of Docker that refuses what it was asked for.
type AnswerError struct {
	Code   int    // of HTTP
	Status string // the code with its words
	Text   string // what Docker says, if anything
}

// Error implements error.
func (e *AnswerError) Error() string {
	if e.Text == "" {
		return "docker answered " + e.Status
	}
	return "docker answered " + e.Status + ": " + e.Text
}
