// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && strings.HasPrefix(os.Args[1], "worker-") {
		if err := child(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// libcryptsetup opens its sources of randomness once and keeps them.
	if _, err := luks.Version(); err != nil {
		panic(err)
	}
	testenv.Main(m)
}

// child is this test binary as a worker. What kind of one is in the mode.
func child(mode, dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Fprintln(os.Stderr, "environment:", strings.Join(os.Environ(), " "))
	touch(dir, "started")
	err := Main(ctx, func(ctx context.Context, identities []recovery.Identity) (*volume.Manager, error) {
		touch(dir, "asked")
		fmt.Fprintf(os.Stderr, "score: %d\n", oomScore())
		for _, i := range identities {
			touch(dir, "lent-"+i.Recipient().Fingerprint())
		}
		switch mode {
		case "worker-dies":
			os.Exit(7)
		case "worker-dies-once":
			if count(dir, "asked") == 1 {
				os.Exit(7)
			}
		case "worker-obeys": // until it is told to stop
			<-ctx.Done()
			return nil, &volume.Error{Code: volume.CodeTimeout, Op: "mount", Err: ctx.Err()}
		case "worker-deaf":
			time.Sleep(time.Hour)
		case "worker-fails":
			return nil, errors.New("the configuration is bad")
		case "worker-real":
			return realManager(dir), nil
		}
		return paperManager(dir), nil
	})
	touch(dir, "ended")
	return err
}

// oomScore is how soon this process ends where memory runs out.
func oomScore() int {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		panic(err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		panic(err)
	}
	return score
}

var touches int

// touch leaves a mark that the test counts.
func touch(dir, what string) {
	touches++
	os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-%d", what, os.Getpid(), touches)), nil, 0o600)
}

func count(dir, what string) int {
	all, _ := filepath.Glob(filepath.Join(dir, what+"-*"))
	return len(all)
}

// paperTB is the testing.TB of a machine in a child.
type paperTB struct{ testing.TB }

func (paperTB) Helper()                   {}
func (paperTB) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (paperTB) Fatal(a ...any)            { panic(fmt.Sprint(a...)) }
func (paperTB) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// paperManager works on a machine of its own: nothing but the small files outlives the child.
func paperManager(dir string) *volume.Manager {
	recipient, err := recovery.ParseRecipient(os.Getenv("VOLUKS_TEST_RECIPIENT"))
	if err != nil {
		panic(err)
	}
	keyring := &keyslot.Keyring{KEK: kektest.NewMemory("test").Set(), Recipients: []recovery.Recipient{recipient}}
	return volume.New(volume.Options{
		Paths: config.PathsUnder(dir), Storage: volumetest.NewMachine(paperTB{}).Process().Storage(), Defaults: volume.Defaults{Size: 64 << 20, FS: "ext4"},
		Keyring: func(context.Context) (*keyslot.Keyring, error) { return keyring, nil },
	})
}

// client is a Client whose workers are this binary in a mode.
func client(t *testing.T, mode string, edit ...func(*Options)) (*Client, string, *safeBuilder) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("VOLUKS_TEST_RECIPIENT", volumetest.Recipient(t).String())
	log := &safeBuilder{}
	o := Options{
		Manager: volume.New(volume.Options{Paths: config.PathsUnder(dir), Storage: volumetest.NewMachine(t).Process().Storage()}),
		Command: []string{"/proc/self/exe", mode, dir}, Grace: 300 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	for _, e := range edit {
		e(&o)
	}
	c := NewClient(o)
	t.Cleanup(func() {
		c.Close()
		soon(t, "all workers end", func() bool { return c.alive.Load() == 0 })
	})
	return c, dir, log
}

type safeBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuilder) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuilder) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func soon(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not happen: %s", what)
		}
	}
}

var holder = volume.Holder{ID: "a", Kind: volume.HolderDocker}

func spec(t *testing.T, name string, size int64) volume.Spec {
	t.Helper()
	s, err := volume.ParseOptions(name, nil, volume.Defaults{Size: size, FS: "ext4"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Results and errors come back as the Manager gave them.
func TestCall(t *testing.T) {
	c, dir, _ := client(t, "worker-paper")
	ctx := t.Context()
	info, made, err := c.Create(ctx, spec(t, "db", 64<<20))
	if err != nil || !made || info.Name != "db" || info.State != volume.StateReady || len(info.Slots) != 2 {
		t.Errorf("create: made %t, %+v, %v", made, info, err)
	}
	s := spec(t, "db", 128<<20)
	s.Given = []string{"size"}
	_, _, err = c.Create(ctx, s)
	var diff *volume.DiffError
	if !errors.Is(err, volume.ErrExists) || !errors.As(err, &diff) || diff.Differences[0].Option != "size" {
		t.Errorf("other options: %v", err)
	}
	if _, err := c.Mount(ctx, "none", holder); !errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), `mount volume "none"`) {
		t.Errorf("mount: %v", err)
	}
	if err := c.Unmount(ctx, "../none", "a"); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("unmount: %v", err)
	}
	if infos, err := c.List(ctx); err != nil || len(infos) != 1 {
		t.Errorf("list: %v, %v", infos, err)
	}
	if err := c.Remove(ctx, "db"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := c.Settle(ctx, "db"); err != nil {
		t.Errorf("settle: %v", err)
	}
	if count(dir, "started") != 6 || count(dir, "asked") != 6 {
		t.Errorf("%d workers did %d operations", count(dir, "started"), count(dir, "asked"))
	}
}

// A worker, and so the key provider in it, finds what a drop-in of the unit sets for it; what systemd has given the agent alone is not handed on. Where
// memory runs out it ends before the agent.
func TestEnvironment(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-central-1")
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	t.Setenv("LISTEN_FDS", "1")
	c, _, log := client(t, "worker-paper")
	if err := c.Settle(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	soon(t, "its log arrives", func() bool { return strings.Contains(log.String(), "environment:") })
	if s := log.String(); !strings.Contains(s, "AWS_REGION=eu-central-1") || !strings.Contains(s, "PATH="+searchPath) || strings.Contains(s, "NOTIFY_SOCKET") || strings.Contains(s, "LISTEN_") {
		t.Errorf("log: %s", s)
	}
	want := fmt.Sprintf("score: %d", min(oomScore()+300, 1000))
	soon(t, "its score is raised", func() bool { return strings.Contains(log.String(), want) })
}

func TestBadConfiguration(t *testing.T) {
	c, _, _ := client(t, "worker-fails")
	if _, err := c.Mount(t.Context(), "db", holder); !errors.Is(err, volume.ErrConfig) || !strings.Contains(err.Error(), "configuration is bad") {
		t.Errorf("got %v", err)
	}
}

// A worker that dies is an error of this one call; the holder it may have recorded is taken back, unless it was there before.
func TestDies(t *testing.T) {
	c, dir, _ := client(t, "worker-dies-once")
	if _, err := c.Mount(t.Context(), "db", holder); volume.CodeOf(err) != volume.CodeInternal || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("got %v", err)
	}
	if count(dir, "asked") != 2 {
		t.Errorf("%d operations", count(dir, "asked"))
	}
	if err := c.Settle(t.Context(), "db"); err != nil {
		t.Errorf("the next: %v", err)
	}
}

func TestDiesAndTheHolderStays(t *testing.T) {
	c, dir, _ := client(t, "worker-dies")
	// As a Mount of the same holder has left it.
	n := volumetest.NewNode(t)
	n.Paths = config.PathsUnder(dir)
	c.o.Manager = n.Manager()
	if _, _, err := n.Manager().Create(t.Context(), spec(t, "db", 64<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Mount(t.Context(), "db", holder); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Mount(t.Context(), "db", holder); err == nil {
		t.Error("success")
	}
	if count(dir, "asked") != 1 || !n.Manager().Holds("db", "a") {
		t.Error("the holder of an earlier mount was taken back")
	}
}

// asked returns a context that ends once a worker has its request, which is the moment that matters; the time a process takes to start is not.
func asked(t *testing.T, dir string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	before := count(dir, "asked")
	go func() {
		defer cancel()
		for ctx.Err() == nil && count(dir, "asked") == before {
			time.Sleep(time.Millisecond)
		}
	}()
	return ctx
}

// At the deadline a worker is told to stop, and its answer is the error.
func TestDeadline(t *testing.T) {
	c, dir, _ := client(t, "worker-obeys", func(o *Options) { o.Grace = 30 * time.Second })
	if _, err := c.Mount(asked(t, dir), "db", holder); volume.CodeOf(err) != volume.CodeTimeout || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("got %v, not what the worker answered", err)
	}
	// One that is told to stop before it has begun.
	early, _, _ := client(t, "worker-paper")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := early.Remove(ctx, "db"); !errors.Is(err, volume.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := c.Mount(ctx, "db", holder); !errors.Is(err, volume.ErrCanceled) {
		t.Errorf("got %v", err)
	}
}

// A worker that does not stop is killed after the grace, and not before.
func TestDeaf(t *testing.T) {
	c, dir, _ := client(t, "worker-deaf")
	ctx := asked(t, dir)
	if err := c.Unmount(ctx, "db", "a"); !errors.Is(err, volume.ErrCanceled) {
		t.Errorf("got %v", err)
	}
	if count(dir, "ended") != 0 {
		t.Error("it was not deaf")
	}
	if got := c.alive.Load(); got != 0 {
		t.Errorf("%d processes are left", got)
	}
}

// However many volumes are asked for at once, few workers run; slow ones make room for others, up to a bound. F42
func TestPlaces(t *testing.T) {
	for name, test := range map[string]struct {
		slow time.Duration
		want int
	}{"quick": {time.Hour, 2}, "slow": {time.Millisecond, 3}} {
		t.Run(name, func(t *testing.T) {
			c, dir, _ := client(t, "worker-obeys", func(o *Options) { o.Grace = 30 * time.Second })
			c.places = newPlaces(2, 3, test.slow)
			running, end := context.WithCancel(t.Context())
			defer end()
			var wg sync.WaitGroup
			for range test.want {
				wg.Go(func() {
					if _, err := c.Mount(running, "db", holder); !strings.Contains(fmt.Sprint(err), "context canceled") {
						t.Errorf("got %v, not what the worker answered", err)
					}
				})
			}
			soon(t, "they run", func() bool { return count(dir, "asked") == test.want })
			short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := c.Mount(short, "db", holder); !errors.Is(err, volume.ErrTimeout) || !strings.Contains(err.Error(), "until others are done") {
				t.Errorf("one too many: %v", err)
			}
			if got := count(dir, "started"); got != test.want {
				t.Errorf("%d workers were started, not %d", got, test.want)
			}
			end()
			wg.Wait()
			c.places = newPlaces(1, 1, time.Hour)
			for range 3 { // what has ended has given its place back
				if err := c.Settle(asked(t, dir), "db"); err == nil || strings.Contains(err.Error(), "until others are done") {
					t.Errorf("the next: %v", err)
				}
			}
		})
	}
}

// Spares are there before they are needed, are replaced when used or dead, and end with the client.
func TestSpares(t *testing.T) {
	c, dir, _ := client(t, "worker-paper", func(o *Options) { o.Spares = 2 })
	waiting := func(n int) func() bool {
		return func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.spares) == n && !slices.ContainsFunc(c.spares, func(p *process) bool { return !p.alive() })
		}
	}
	soon(t, "two spares", waiting(2))
	soon(t, "they run", func() bool { return count(dir, "started") == 2 })
	if err := c.Settle(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	soon(t, "a new one", func() bool { return waiting(2)() && count(dir, "started") == 3 })
	c.mu.Lock()
	for _, p := range c.spares {
		p.cmd.Process.Kill()
	}
	dead := slices.Clone(c.spares)
	c.mu.Unlock()
	for _, p := range dead {
		<-p.done
	}
	if err := c.Settle(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	soon(t, "new ones", waiting(2))
	c.Close()
	soon(t, "they end", func() bool { return count(dir, "ended") == count(dir, "started")-2 })
	if err := c.Settle(t.Context(), "db"); err != nil {
		t.Errorf("after close: %v", err)
	}
	if len(c.spares) != 0 {
		t.Error("spares after close")
	}
}

// A spare ends by itself when the agent is gone, however it went.
func TestSpareOfADeadAgent(t *testing.T) {
	c, _, _ := client(t, "worker-paper")
	p, err := c.start()
	if err != nil {
		t.Fatal(err)
	}
	p.in.Close() // as the kernel does
	p.out.Close()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		t.Error("it is still there")
	}
	if p.status != nil {
		t.Errorf("status %v", p.status)
	}
}

// One told to stop while it waits ends as well.
func TestSpareToldToStop(t *testing.T) {
	c, dir, _ := client(t, "worker-paper")
	p, err := c.start()
	if err != nil {
		t.Fatal(err)
	}
	soon(t, "it runs", func() bool { return count(dir, "started") == 1 })
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		t.Error("it is still there")
	}
	p.dismiss()
}

func TestNoSuchProgram(t *testing.T) {
	c, _, _ := client(t, "", func(o *Options) { o.Command = []string{"/nonexistent/voluks"} })
	if err := c.Settle(t.Context(), "db"); volume.CodeOf(err) != volume.CodeInternal {
		t.Errorf("got %v", err)
	}
}

// Main refuses to work for anybody but an agent.
func TestMainByHand(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "worker-paper", t.TempDir())
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "started by the agent") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestReconcile(t *testing.T) {
	c, dir, _ := client(t, "worker-paper")
	for _, name := range []string{"a", "b", "c"} {
		if err := os.MkdirAll(filepath.Join(config.PathsUnder(dir).VolumeDir(name), "inner"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	err := c.Reconcile(t.Context())
	for _, name := range []string{"a", "b", "c"} {
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
	if count(dir, "asked") != 3 {
		t.Errorf("%d operations", count(dir, "asked"))
	}
}

// Every kind of error survives the pipe: text, code, details.
func TestWire(t *testing.T) {
	for _, err := range []error{
		&volume.Error{Code: volume.CodeBusy, Op: "unmount", Volume: "db", Err: &volume.HeldError{Closing: true, Others: []string{"process 7"}, Holders: []volume.Holder{holder}}},
		&volume.Error{Code: volume.CodeExists, Op: "create", Volume: "db", Err: &volume.DiffError{Differences: []volume.Difference{{Option: "size", Have: "1G", Want: "2G"}}}},
		&volume.Error{Code: volume.CodePlaintext, Op: "mount", Volume: "db", Err: fmt.Errorf("x: %w", &volume.ProofError{Link: "table", Msg: "no"})},
		&volume.Error{Code: volume.CodeLocked, Op: "mount", Volume: "db", Err: errors.New("provider is down")},
		&volume.Error{Code: volume.CodeLocked, Op: "unlock", Volume: "db", Err: fmt.Errorf("%w: down", kek.ErrUnavailable)},
		errors.New("plain"),
	} {
		b, e := json.Marshal(answer{Error: encodeError(err)})
		if e != nil {
			t.Fatal(e)
		}
		var a answer
		if e := json.Unmarshal(b, &a); e != nil {
			t.Fatal(e)
		}
		got := a.Error.decode()
		if volume.CodeOf(got) != volume.CodeOf(err) || got.Error() != err.Error() {
			t.Errorf("sent %v, got %v", err, got)
		}
		if kek.MayPass(got) != kek.MayPass(err) {
			t.Errorf("whether %v may pass: %v", err, kek.MayPass(got))
		}
		var want, have *volume.HeldError
		if errors.As(err, &want) && (!errors.As(got, &have) || !have.Closing || len(have.Others) != 1 || have.Holders[0].ID != "a") {
			t.Errorf("got %+v", have)
		}
		var diff *volume.DiffError
		var proof *volume.ProofError
		if errors.Is(err, volume.ErrExists) && (!errors.As(got, &diff) || diff.Differences[0].Want != "2G") ||
			errors.Is(err, volume.ErrPlaintext) && (!errors.As(got, &proof) || proof.Link != "table") {
			t.Errorf("got %#v", got)
		}
	}
	var none *wireError
	if none.decode() != nil || encodeError(nil) != nil {
		t.Error("no error became one")
	}
}

// A recovery identity reaches each worker by a descriptor: it is in no argument, no environment and no log. F41
func TestIdentity(t *testing.T) {
	text, recipient, err := recovery.Generate()
	if err != nil {
		t.Fatal(err)
	}
	defer text.Wipe()
	r, err := recovery.ParseRecipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	c, dir, log := client(t, "worker-paper", func(o *Options) { o.Identity = text })
	for _, name := range []string{"a", "b"} {
		if _, err := c.VerifyRecovery(t.Context(), name); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}
	if n := count(dir, "lent-"+r.Fingerprint()); n != 2 {
		t.Errorf("%d workers got it", n)
	}
	if strings.Contains(log.String(), "AGE-SECRET-KEY") {
		t.Errorf("the log has it:\n%s", log)
	}
	c, dir, _ = client(t, "worker-paper")
	if _, err := c.VerifyRecovery(t.Context(), "a"); !errors.Is(err, volume.ErrNotFound) || count(dir, "lent") != 0 {
		t.Errorf("got %v", err)
	}
}
