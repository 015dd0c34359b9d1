// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// A plain volume is found with those who have it; anything else is not taken for one, and nothing but a plain volume is removed.
func TestLocalVolume(t *testing.T) {
	volumes := map[string]string{
		"/volumes/plain":  `{"Name":"plain","Driver":"local","Mountpoint":"/var/lib/docker/volumes/plain/_data","Options":null}`,
		"/volumes/nfs":    `{"Name":"nfs","Driver":"local","Mountpoint":"/var/lib/docker/volumes/nfs/_data","Options":{"type":"nfs"}}`,
		"/volumes/voluks": `{"Name":"voluks","Driver":"voluks","Mountpoint":""}`,
	}
	var removed []string
	e := engine(t, func(w http.ResponseWriter, r *http.Request) {
		text, ok := volumes[r.URL.Path]
		switch {
		case r.Method == http.MethodDelete:
			removed = append(removed, r.URL.Path)
			w.WriteHeader(http.StatusNoContent)
		case ok:
			fmt.Fprint(w, text)
		case r.URL.Path == "/containers/json":
			fmt.Fprint(w, `[{"Id":"1","Names":["/db"],"State":"running","Mounts":[{"Type":"volume","Name":"plain"},{"Type":"volume","Name":"plain"}]},
				{"Id":"2","Names":["/old"],"State":"exited","Mounts":[{"Type":"volume","Name":"plain"}]},
				{"Id":"3","Names":["/paused"],"State":"paused","Mounts":[{"Type":"volume","Name":"plain"}]},
				{"Id":"4","Names":["/other"],"State":"running","Mounts":[{"Type":"bind","Name":"plain"},{"Type":"volume","Name":"plain2"}]}]`)
		default:
			http.Error(w, `{"message":"no such volume"}`, http.StatusNotFound)
		}
	})
	v, err := e.LocalVolume(t.Context(), "plain")
	if err != nil || v.Mountpoint != "/var/lib/docker/volumes/plain/_data" || !slices.Equal(v.Running, []string{"db", "paused"}) || !slices.Equal(v.Stopped, []string{"old"}) {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := e.LocalVolume(t.Context(), "none"); !errors.Is(err, ErrNoVolume) {
		t.Errorf("none: %v", err)
	}
	for name, says := range map[string]string{"nfs": "mounted from elsewhere", "voluks": "driver voluks"} {
		if _, err := e.LocalVolume(t.Context(), name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
		// What is ours by now was forgotten; what is mounted from elsewhere is not removed.
		if err := e.RemoveLocalVolume(t.Context(), name); (err == nil) != (name == "voluks") || len(removed) > 0 {
			t.Errorf("%s: %v, removed %v", name, err, removed)
		}
	}
	if err := e.RemoveLocalVolume(t.Context(), "none"); err != nil {
		t.Errorf("forgotten already: %v", err)
	}
	if err := e.RemoveLocalVolume(t.Context(), "plain"); err != nil || !slices.Equal(removed, []string{"/volumes/plain"}) {
		t.Errorf("removed %v, %v", removed, err)
	}
}

// A refusal is told from an answer that did not come: after that Docker may be removing the volume.
func TestRemoveLocalVolumeRefused(t *testing.T) {
	for name, refused := range map[string]bool{"conflict": true, "cut off": false} {
		e := engine(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodDelete && refused:
				http.Error(w, `{"message":"volume is in use"}`, http.StatusConflict)
			case r.Method == http.MethodDelete:
				panic(http.ErrAbortHandler)
			case r.URL.Path == "/containers/json":
				fmt.Fprint(w, `[]`)
			default:
				fmt.Fprint(w, `{"Name":"plain","Driver":"local","Mountpoint":"/x"}`)
			}
		})
		err := e.RemoveLocalVolume(t.Context(), "plain")
		var answer *AnswerError
		if err == nil || errors.As(err, &answer) != refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}
