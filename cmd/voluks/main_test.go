// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/voluks/voluks/internal/sys"
)

// TestMain makes the test binary be voluks when it is called by that name, or as the worker of an agent that is this binary.
func TestMain(m *testing.M) {
	if os.Args[0] == "/proc/self/exe" {
		main()
		return
	}
	testscript.Main(m, map[string]func(){"voluks": underTest})
}

// underTest is main, unless a test wants the process killed between two writes.
func underTest() {
	at := os.Getenv("VOLUKS_TEST_CRASH")
	if at == "" {
		main()
		return
	}
	e := newEnv()
	e.crash = func(point string) {
		if point == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
	os.Exit(run(os.Args, e))
}

// TestScripts runs testdata/script: each file is a node of its own below $ROOT, which "voluks" gets as --root through the function v.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ROOT", filepath.Join(e.WorkDir, "root"))
			e.Setenv("ETC", filepath.Join(e.WorkDir, "root", "etc", "voluks"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "dm":
				f, err := os.Open("/dev/mapper/control")
				if err == nil {
					f.Close()
				}
				return err == nil, nil
			case "durable": // a key directory in memory is refused
				kind, err := sys.Statfs(os.TempDir())
				return err == nil && kind.Type != 0x01021994, err
			case "uid0":
				return os.Geteuid() == 0, nil
			}
			return false, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"v": runVoluks, "mode": fileMode, "tree": tree},
	})
}

// runVoluks is "v STATUS ARG...": it runs voluks --root $ROOT ARG... and wants that exit status.
func runVoluks(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: v STATUS ARG...")
	}
	cmd := voluks(append([]string{"--root", ts.Getenv("ROOT")}, args[1:]...)...)
	cmd.Dir = ts.Getenv("WORK")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	ts.Setenv("STDOUT", stdout.String())
	ts.Check(os.WriteFile(ts.MkAbs("out"), stdout.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), stderr.Bytes(), 0o600))
	ts.Logf("[stdout]\n%s[stderr]\n%s", stdout.String(), stderr.String())
	if got := cmd.ProcessState.String(); got != "exit status "+args[0] {
		ts.Fatalf("%s (%v), want exit status %s", got, err, args[0])
	}
}

// voluks is the program under test.
func voluks(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Args[0] = "voluks"
	return cmd
}

// fileMode is "mode 0600 FILE".
func fileMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode MODE FILE")
	}
	info, err := os.Lstat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := "0" + info.Mode().String(); info.Mode().Perm() != parseMode(ts, args[0]) {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

func parseMode(ts *testscript.TestScript, s string) (m os.FileMode) {
	for _, c := range s {
		if c < '0' || c > '7' {
			ts.Fatalf("no mode: %s", s)
		}
		m = m<<3 | os.FileMode(c-'0')
	}
	return m
}

// tree is "tree DIR FILE": it writes the names of all that is below DIR to FILE.
func tree(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tree DIR FILE")
	}
	dir := ts.MkAbs(args[0])
	var out bytes.Buffer
	ts.Check(filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if os.IsNotExist(err) && path == dir {
			return nil
		}
		rel, _ := filepath.Rel(dir, path)
		out.WriteString(rel + "\n")
		return err
	}))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), out.Bytes(), 0o600))
}
