// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// WatchdogInterval is the WatchdogSec= under which systemd runs this process, 0 if it runs none.
func WatchdogInterval() (time.Duration, error) {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("read the watchdog interval from systemd: %w", err)
	}
	return d, nil
}

// Watchdog tells systemd that the agent is alive, until ctx ends: it runs check at each half of interval and notifies only if
// check succeeded, so a process that merely exists but no longer gets anything done is restarted. check gets a context that
// ends before the next round and must not depend on one volume, device or provider, since restarting the agent would not
// mend those. With interval 0 it returns at once.
func Watchdog(ctx context.Context, n Notifier, interval time.Duration, check func(context.Context) error) {
	if interval <= 0 {
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		if err := checkWithin(ctx, interval/2, check); err == nil {
			n.watchdog()
		} else if ctx.Err() == nil && n.Log != nil {
			n.Log.Error("the agent makes no progress; systemd restarts it unless the next check succeeds", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func checkWithin(ctx context.Context, d time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return check(ctx)
}
