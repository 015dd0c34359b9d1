// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells the service manager how the agent is (sd_notify(3)). The zero value works and logs nothing.
// Every method is a no-op outside systemd. A notification that cannot be delivered is logged and otherwise ignored:
// losing one must not stop a volume.
type Notifier struct {
	Log *slog.Logger // tells what systemd cannot be told
}

// Ready says that the agent answers requests. It may be sent again.
func (n Notifier) Ready() { n.send(daemon.SdNotifyReady) }

// Stopping says that the agent is on its way out.
func (n Notifier) Stopping() { n.send(daemon.SdNotifyStopping) }

// Status sets the line that `systemctl status` shows.
func (n Notifier) Status(format string, args ...any) {
	// A newline would start another assignment.
	n.send("STATUS=" + strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " "))
}

// ExtendTimeout asks for at least d from now on before systemd gives up starting or stopping the service.
func (n Notifier) ExtendTimeout(d time.Duration) {
	n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

func (n Notifier) watchdog() { n.send(daemon.SdNotifyWatchdog) }

func (n Notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil && n.Log != nil {
		n.Log.Warn("systemd was not notified", "state", state, "error", err)
	}
}
