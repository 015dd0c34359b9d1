// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/crashpoint"
	"github.com/voluks/voluks/systemd"
)

// env is the outside of one run: streams, paths, and what the global flags say.
type env struct {
	stdin  *os.File
	stdout io.Writer
	stderr io.Writer

	root    string // --root, or ""
	file    string // --config, or ""
	json    bool
	verbose bool

	crash func(point string) // called between two writes

	impatient bool // whoever runs this tries again by himself

	reload atomic.Pointer[func()] // what SIGHUP does, once there is something
}

func newEnv() *env {
	return &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, crash: crashpoint.Hit}
}

// paths are those of the node, below --root. A configuration file somewhere else takes the default place of the master key with it.
func (e *env) paths() config.Paths {
	if e.root == "" {
		return e.near(config.DefaultPaths())
	}
	return e.near(config.PathsUnder(e.root))
}

func (e *env) near(p config.Paths) config.Paths {
	if e.file != "" {
		p.Config = filepath.Dir(e.file)
	}
	return p
}

func (e *env) configFile() string {
	if e.file != "" {
		return e.file
	}
	return e.paths().ConfigFile()
}

// engine is Docker's API, below --root too, so that a test never looks at the Docker of its machine.
func (e *env) engine() dockerplugin.Engine {
	return dockerplugin.Engine{Socket: filepath.Join("/", e.root, dockerplugin.EngineSocket)}
}

// globals are the arguments that make another voluks see the same node.
func (e *env) globals() []string {
	var args []string
	if e.root != "" {
		args = append(args, "--root", e.root)
	}
	if e.file != "" {
		args = append(args, "--config", e.file)
	}
	if e.verbose {
		args = append(args, "--verbose")
	}
	return args
}

// logger is the log of the agent and of what units run.
func (e *env) logger() *slog.Logger {
	level := e.level(slog.LevelInfo)
	if journal := e.journal(level); journal != nil {
		return slog.New(journal)
	}
	return slog.New(logHandler(e.stderr, level, os.Getenv("JOURNAL_STREAM") != ""))
}

// journal writes records with their fields into the journal; nil if standard error does not go there.
func (e *env) journal(level slog.Level) slog.Handler {
	if e.stderr != os.Stderr {
		return nil
	}
	return systemd.Journal(level, logHandler(e.stderr, level, true))
}

// workerLogger writes what the agent puts into its own log: records that it can read again, without the time, which that log has.
func (e *env) workerLogger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(e.stderr, withoutTime(e.level(slog.LevelInfo))))
}

// quiet is the logger of commands that a person runs: the outcome is their output, the log only tells of oddities.
func (e *env) quiet() *slog.Logger {
	level := e.level(slog.LevelWarn)
	if journal := e.journal(level); journal != nil {
		return slog.New(journal)
	}
	return slog.New(slog.NewTextHandler(e.stderr, withoutTime(level)))
}

func (e *env) level(usual slog.Level) slog.Level {
	if e.verbose {
		return slog.LevelDebug
	}
	return usual
}
