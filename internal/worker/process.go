// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

const (
	// killTime is how long a killed process may take to be gone. One that the kernel cannot end, since it waits for a device, takes longer.
	killTime = 2 * time.Second
	// maxAnswer bounds what is read from a worker.
	maxAnswer = 4 << 20
	// maxLine bounds one line of a worker's log.
	maxLine = 64 << 10
	// searchPath is where a worker finds mkfs and the like, whatever the agent's environment says.
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

var (
	errDied      = errors.New("the worker process died without an answer")
	errAbandoned = errors.New("the worker process neither finished in time nor could be ended: a device below the volume does not answer")
)

// process is one worker: it waits for a request, or does one.
type process struct {
	cmd    *exec.Cmd
	in     *os.File      // requests go here; closing it dismisses a spare
	out    *os.File      // the answer comes from here
	done   chan struct{} // closed when the process is reaped
	status error         // why it ended; valid after done
}

// start makes a process of the agent's own program that waits for a request. It is a group of its own, so that ending it ends its children too; it
// does not end with the agent unless it still waits. ended is called when it has.
func start(o Options, ended func()) (*process, error) {
	var files []*os.File
	fail := func(err error) (*process, error) {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			files = append(files, r, w)
		}
		return r, w, err
	}
	inR, inW, err := pipe()
	if err != nil {
		return fail(err)
	}
	outR, outW, err := pipe()
	if err != nil {
		return fail(err)
	}
	logR, logW, err := pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stderr = logW
	cmd.ExtraFiles = []*os.File{inR, outW} // 3 and 4
	if o.Identity != nil {
		f, err := sys.Memfd("voluks-identity", o.Identity.Bytes())
		if err != nil {
			return fail(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f) // 5
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	inR.Close()
	outW.Close()
	logW.Close()
	p := &process{cmd: cmd, in: inW, out: outR, done: make(chan struct{})}
	go forward(logR, o.Log, cmd.Process.Pid)
	go func() {
		p.status = cmd.Wait()
		ended() // first, so that whoever has seen the end counts no more than there are
		close(p.done)
	}()
	return p, nil
}

// own are the variables that systemd gives the agent and nobody else.
var own = []string{"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"}

// environment is what a worker gets of the agent's: what key providers and their helpers look for there, such as proxies, credentials and regions, and
// systemd's directory of credentials. The tools that a worker runs get none of it.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(own, name)
	})
	return append(env, "PATH="+searchPath, "LC_ALL=C") // the last of a name counts
}

// forward logs what a worker writes, until it and all its children have closed the pipe.
func forward(r *os.File, log *slog.Logger, pid int) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			relay(log.With("worker", pid), line)
		}
	}
	if lines.Err() != nil {
		io.Copy(io.Discard, r) // or the worker would stop at a full pipe
	}
}

// relay logs a record that a worker wrote as JSON with its level and attributes, and any other line, of a tool for example, as it is.
func relay(log *slog.Logger, line string) {
	record := map[string]any{}
	level := slog.LevelInfo
	var text string
	if json.Unmarshal([]byte(line), &record) == nil {
		text, _ = record[slog.MessageKey].(string)
		name, _ := record[slog.LevelKey].(string)
		if level.UnmarshalText([]byte(name)) != nil {
			level = slog.LevelInfo
		}
	}
	if text == "" {
		log.Info(line)
		return
	}
	delete(record, slog.MessageKey)
	delete(record, slog.LevelKey)
	var attrs []any
	for _, key := range slices.Sorted(maps.Keys(record)) {
		attrs = append(attrs, slog.Any(key, record[key]))
	}
	log.Log(context.Background(), level, text, attrs...)
}

// alive tells whether a spare still waits.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// dismiss waits for the end of a worker that has nothing more to do: a spare exits when nobody can send it a request any more.
func (p *process) dismiss() {
	p.in.Close()
	p.out.Close()
	for range 2 {
		select {
		case <-p.done:
			return
		case <-time.After(killTime):
			p.signal(syscall.SIGKILL)
		}
	}
}

// do sends the request and waits for the answer. When ctx ends the worker is told to stop, which makes it undo what it did and answer; after grace it
// is killed; and if even that does not end it, it is abandoned. It still has the volume's lock then, past its deadline, which is what makes everybody
// call the volume stuck.
func (p *process) do(ctx context.Context, r request, grace time.Duration) (answer, error) {
	defer p.in.Close()
	b, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	answers := make(chan answer, 1)
	go func() {
		defer p.out.Close()
		var a answer
		if json.NewDecoder(io.LimitReader(p.out, maxAnswer)).Decode(&a) == nil {
			answers <- a
		} else {
			close(answers)
		}
	}()
	if _, err := p.in.Write(b); err != nil {
		p.signal(syscall.SIGKILL)
		return answer{}, fmt.Errorf("send the request: %w", err)
	}
	p.in.Close()
	got := func(a answer, ok bool) (answer, error) {
		if ok {
			return a, nil
		}
		return p.died()
	}
	select {
	case a, ok := <-answers:
		return got(a, ok)
	case <-ctx.Done():
	}
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case a, ok := <-answers:
		return got(a, ok)
	case <-timer.C:
	}
	p.signal(syscall.SIGKILL)
	return p.died()
}

// died waits for the end of a process that has closed its answer or was killed.
func (p *process) died() (answer, error) {
	timer := time.NewTimer(killTime)
	defer timer.Stop()
	select {
	case <-p.done:
		return answer{}, fmt.Errorf("%w (%v)", errDied, p.status)
	case <-timer.C:
		p.signal(syscall.SIGKILL)
		return answer{}, fmt.Errorf("%w (process %d)", errAbandoned, p.cmd.Process.Pid)
	}
}

// signal goes to the worker alone if it is to stop by itself, and to its children too if it is to be gone.
func (p *process) signal(s syscall.Signal) {
	if !p.alive() {
		return
	}
	if s == syscall.SIGKILL {
		syscall.Kill(-p.cmd.Process.Pid, s)
		return
	}
	p.cmd.Process.Signal(s)
}
