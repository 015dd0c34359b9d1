// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek/providers"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
	"github.com/voluks/voluks/systemd"
)

const (
	// startTime is how long requests wait for the volumes to be looked through after a start. Docker waits 60 s for most of its calls.
	startTime = 30 * time.Second
	// sweepEvery is how often volumes that were left over are settled.
	sweepEvery = 30 * time.Second
	// stopTime is how long a stop waits for requests in flight, all of which end by then.
	stopTime = 110 * time.Second
	// spares are workers that wait for an operation, so that a mount does not wait for a process to start.
	spares = 1
)

func serveCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run the agent that Docker and Podman call",
		Description: `Runs in the foreground until SIGTERM, normally as voluks.service. It
listens on the socket that systemd hands over, or else makes
/run/docker/plugins/voluks.sock itself. At the end it first answers the
requests in flight. Mounted volumes stay mounted however it ends, and
containers go on.

   systemctl enable --now voluks.socket voluks-keys.socket \
       voluks.service voluks-gate.service voluks-shutdown.service
   voluks --verbose serve          on a terminal, to see what it does`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "managed-plugin", Usage: "run as what the config.json of a managed plugin of Docker starts", Hidden: true},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.serve(c.Context, c.Bool("managed-plugin"))
		},
	}
}

// serve is the agent.
func (e *env) serve(ctx context.Context, managed bool) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	log := e.logger()
	lock, err := lockAgent(e.paths().AgentLock())
	if err != nil {
		return err
	}
	defer lock.Close()
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	if set := providers.Open(cfg); providers.Check(set) != nil {
		log.Error("volumes cannot be opened", "error", providers.Check(set))
	}
	var dir *sys.HostDir
	if managed {
		if dir, err = e.joinHost(); err != nil {
			return err
		}
	}
	e.onHangup(log, cfg.Docker.Socket)
	listener, err := pluginListener(log, cfg)
	if err != nil {
		return err
	}
	client := worker.NewClient(worker.Options{
		Manager: e.manager(log, defaults(cfg)),
		Command: append(append([]string{"/proc/self/exe"}, e.globals()...), "worker"),
		Spares:  spares,
		Log:     log,
	})
	defer client.Close()
	volumes := dockerplugin.Volumes(client)
	if dir != nil {
		volumes = &managedVolumes{client, dir}
	}
	a := &agent{log: log, notify: systemd.Notifier{Log: log}, volumes: client, ready: make(chan struct{}), listener: listener}
	a.rotates = a.rotator(e)
	a.keys = newKeyWatch(client, log)
	a.erases = a.eraser(e)
	a.server = dockerplugin.New(dockerplugin.Config{Volumes: volumes, Parse: e.parseOptions, Ready: a.ready, Log: log})
	return a.run(ctx)
}

// parseOptions reads the options of a new volume with the defaults that the configuration has now, as the worker will.
func (e *env) parseOptions(name string, options map[string]string) (volume.Spec, error) {
	cfg, err := e.loadConfig()
	if err != nil {
		return volume.Spec{}, &volume.Error{Code: volume.CodeConfig, Op: "create", Volume: name, Err: err}
	}
	return volume.ParseOptions(name, options, defaults(cfg))
}

// lockAgent makes this process the one agent of the node, as long as the file is open. The file is never unlinked; it says who holds it.
func lockAgent(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("become the agent of this node: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("become the agent of this node: %w", err)
	}
	err = sys.TryLock(f)
	if errors.Is(err, sys.ErrLocked) {
		var text [32]byte
		n, _ := f.ReadAt(text[:], 0)
		f.Close()
		pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:n])))
		return nil, &agentError{pid: pid}
	}
	if err == nil {
		err = errors.Join(f.Truncate(0), write(f, strconv.Itoa(os.Getpid())+"\n"))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("become the agent of this node: %w", err)
	}
	return f, nil
}

func write(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// pluginListener takes the socket from systemd, by the name that the socket unit gives it, or makes it.
func pluginListener(log *slog.Logger, cfg config.Config) (net.Listener, error) {
	sockets, err := systemd.Listeners()
	if err != nil {
		return nil, err
	}
	defer sockets.Close()
	for _, name := range []string{"docker", "voluks.socket"} {
		l, err := sockets.Take(name)
		if err != nil {
			return nil, err
		}
		if l != nil {
			log.Info("listening on the socket of systemd", "socket", l.Addr().String())
			return l, nil
		}
	}
	if names := sockets.Names(); len(names) > 0 {
		return nil, fmt.Errorf("systemd hands over sockets of other names (%s); the socket unit needs FileDescriptorName=docker", strings.Join(names, ", "))
	}
	l, err := dockerplugin.Listen(cfg.Docker.Socket)
	if err == nil {
		log.Info("listening", "socket", cfg.Docker.Socket)
	}
	return l, err
}

// agent is the running agent.
type agent struct {
	log      *slog.Logger
	notify   systemd.Notifier
	volumes  *worker.Client
	server   *dockerplugin.Server
	listener net.Listener
	ready    chan struct{}
	rotates  *rotator
	keys     *keyWatch
	erases   *eraser
}

// run serves until ctx ends or serving fails, and then stops.
func (a *agent) run(ctx context.Context) error {
	interval, err := systemd.WatchdogInterval()
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(a.listener) }()
	socket := a.listener.Addr().String()
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go systemd.Watchdog(background, a.notify, interval, func(ctx context.Context) error { return dockerplugin.Ping(ctx, socket) })
	a.notify.Status("looking through the volumes")
	a.notify.Ready()
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		var beside sync.WaitGroup
		beside.Go(func() { a.rotates.run(ctx) })
		beside.Go(func() { a.keys.run(ctx) })
		beside.Go(func() { a.erases.run(ctx) })
		a.sweep(ctx)
		beside.Wait()
	}()

	select {
	case err = <-served:
	case <-ctx.Done():
		a.log.Info("stopping; requests in flight are answered first")
	}
	a.notify.Stopping()
	a.notify.ExtendTimeout(stopTime + 10*time.Second)
	stop, done := context.WithTimeout(background, stopTime)
	defer done()
	err = errors.Join(err, a.server.Shutdown(stop))
	<-swept
	a.log.Info("stopped; mounted volumes stay mounted")
	return err
}

// sweep settles what a crash or a busy moment left, at the start and then every so often, until ctx ends. After the first time requests are served.
func (a *agent) sweep(ctx context.Context) {
	first, cancel := context.WithTimeout(ctx, startTime)
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		a.settle(first)
	}()
	// The kernel may keep even a look at one volume waiting; the others are served then.
	select {
	case <-settled:
	case <-first.Done():
	}
	cancel()
	close(a.ready)
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			a.settle(ctx)
		}
	}
}

func (a *agent) settle(ctx context.Context) {
	err := a.volumes.Reconcile(ctx)
	if err != nil && ctx.Err() == nil {
		for _, line := range messages(err) {
			a.log.Warn("a volume could not be settled", "error", line)
		}
	}
	infos, err := a.volumes.List(ctx)
	if err != nil {
		a.log.Error("the volumes cannot be listed", "error", err)
		a.notify.Status("the volumes cannot be listed: %v", err)
		return
	}
	counts := map[volume.State]int{}
	for _, info := range infos {
		counts[info.State]++
	}
	status := fmt.Sprintf("%d volumes, %d mounted", len(infos), counts[volume.StateMounted])
	if n := counts[volume.StateLocked]; n > 0 {
		status += fmt.Sprintf(", %d locked", n)
	}
	a.notify.Status("%s", status)
}
