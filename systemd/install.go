// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/atomicfile"
)

const (
	// maxUnit bounds what is read of a unit file.
	maxUnit = 256 << 10
	// controlTime is how long systemctl may take.
	controlTime = 90 * time.Second
)

// Install writes units below dir, durable when it returns, and gives the paths of those that were not there in just this form. What else
// is there, drop-ins of the administrator for example, stays. A unit that was masked or replaced by a link is an error.
func Install(dir string, units []Unit) (written []string, err error) {
	for _, u := range units {
		target := filepath.Join(dir, u.Name)
		have, err := atomicfile.Read(target, maxUnit)
		if err == nil && string(have) == u.Content {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return written, fmt.Errorf("install unit %s: %w", target, err)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return written, fmt.Errorf("install unit %s: %w", target, err)
		}
		if err := atomicfile.Write(target, []byte(u.Content), 0o644); err != nil {
			return written, fmt.Errorf("install unit %s: %w", target, err)
		}
		written = append(written, target)
	}
	return written, nil
}

// ControlError is what systemctl answered.
type ControlError struct {
	Args   []string // of systemctl
	Stderr string   // what it said
	Err    error    // how it ended
}

// Error implements error.
func (e *ControlError) Error() string {
	s := "systemctl " + strings.Join(e.Args, " ") + ": " + e.Err.Error()
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// Unwrap gives the error of the process.
func (e *ControlError) Unwrap() error { return e.Err }

// Control runs systemctl. Whatever it fails with is a *ControlError.
func Control(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	// Messages are shown and compared in one language, and nothing waits for a password.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_ASK_PASSWORD=0", "SYSTEMD_PAGER=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return stdout.String(), &ControlError{args, strings.ReplaceAll(strings.TrimSpace(stderr.String()), "\n", "; "), err}
	}
	return stdout.String(), nil
}

// Booted tells whether systemd runs this machine, as sd_booted(3) does.
func Booted() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}
