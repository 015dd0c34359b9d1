// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
)

// bulk does one thing to many volumes, each in a worker of its own, so that one whose device hangs keeps no other.
type bulk struct {
	e        *env
	jobs     []job
	parallel int
	verb     string                // "rotated"
	again    string                // the command that does what an interrupted one has left
	identity *secret.Key           // lent to the workers, or nil
	adopted  volume.AdoptedRequest // what is done with adopted devices

	mu   sync.Mutex
	done int
}

// job is one volume of a bulk and what became of it.
type job struct {
	Volume  string             `json:"volume"`
	Adopted bool               `json:"adopted,omitempty"` // no volume, but a device of the host
	Skipped string             `json:"skipped,omitempty"` // why nothing was done
	Receipt *volume.KeyReceipt `json:"receipt,omitempty"`
	Error   string             `json:"error,omitempty"`
	Code    volume.Code        `json:"code,omitempty"`

	info volume.Info
	at   volume.Adopted
	err  error
}

// title is how a table calls it.
func (j *job) title() string {
	if j.Adopted && !isPath(j.Volume) {
		return j.Volume + " (adopted device)"
	}
	return j.Volume
}

type bulkResult struct {
	Volumes []job `json:"volumes"`
	Failed  int   `json:"failed"`
}

func bulkFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Usage: "all volumes of this node", DisableDefaultText: true},
		&cli.IntFlag{Name: "parallel", Value: 2, Usage: "`N` volumes at the same time"},
	}
}

// bulkNames are the volumes that the command line names; nil for all.
func (e *env) bulkNames(c *cli.Context) ([]string, error) {
	usage := func(text string) ([]string, error) { return nil, &usageError{command: c.Command.HelpName, text: text} }
	names := c.Args().Slice()
	switch {
	case c.Int("parallel") < 1 || c.Int("parallel") > 64:
		return usage("--parallel is 1 to 64")
	case c.Bool("all") && len(names) > 0:
		return usage("--all means all volumes; name none")
	case !c.Bool("all") && len(names) == 0:
		return usage(c.Command.HelpName + " needs NAME..., or --all")
	}
	return names, nil
}

// jobs finds the volumes; no names are all. A name that no volume has is an error before anything is done.
func (e *env) jobs(ctx context.Context, names []string) ([]job, error) {
	m := e.manager(e.quiet(), volume.Defaults{})
	var infos []volume.Info
	if len(names) == 0 {
		all, err := m.List(ctx)
		if err != nil {
			return nil, err
		}
		infos = all
	}
	for _, name := range names {
		info, err := m.Inspect(ctx, name)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	jobs := []job{}
	for _, info := range infos {
		j := job{Volume: info.Name, info: info}
		if !info.Finished() && len(names) == 0 {
			j.Skipped = "its creation has not ended"
		}
		if info.Options["ephemeral"] == "true" && len(names) == 0 {
			j.Skipped = "it is ephemeral, and has no key to change"
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// run does all jobs that are not skipped. After the end of ctx no other is begun.
func (b *bulk) run(ctx context.Context, do func(context.Context, *worker.Client, string) (volume.KeyReceipt, error)) {
	var todo []*job
	for i := range b.jobs {
		if b.jobs[i].Skipped == "" {
			todo = append(todo, &b.jobs[i])
		}
	}
	if len(todo) == 0 {
		return
	}
	log := b.e.quiet()
	workers := min(b.parallel, len(todo))
	client := worker.NewClient(worker.Options{
		Manager: b.e.manager(log, volume.Defaults{}),
		Command: append(append([]string{"/proc/self/exe"}, b.e.globals()...), "worker"),
		Log:     log, Identity: b.identity,
	})
	defer client.Close()
	next := make(chan *job)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for j := range next {
				receipt, err := b.one(ctx, client, j, do)
				b.note(j, receipt, err, len(todo))
			}
		})
	}
	for _, j := range todo {
		if ctx.Err() != nil {
			b.note(j, volume.KeyReceipt{}, &volume.Error{Code: volume.CodeCanceled, Err: errors.New("not begun")}, len(todo))
			continue
		}
		next <- j
	}
	close(next)
	wg.Wait()
	if b.terminal() {
		fmt.Fprint(b.e.stderr, "\r\x1b[K")
	}
}

func (b *bulk) one(ctx context.Context, c *worker.Client, j *job, do func(context.Context, *worker.Client, string) (volume.KeyReceipt, error)) (volume.KeyReceipt, error) {
	if !j.Adopted {
		return do(ctx, c, j.Volume)
	}
	r := b.adopted
	r.Adopted = j.at
	return c.ChangeAdopted(ctx, r)
}

// note keeps what became of a job and shows it.
func (b *bulk) note(j *job, receipt volume.KeyReceipt, err error, total int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done++
	if j.err = err; err != nil {
		j.Error, j.Code = err.Error(), volume.CodeOf(err)
	}
	if err == nil || receipt.Changed() { // of several slots some may have been changed before one failed
		j.Receipt = &receipt
	}
	switch {
	case b.e.json || total == 1:
	case b.terminal():
		const width = 30
		full := width * b.done / total
		fmt.Fprintf(b.e.stderr, "\r\x1b[K[%s%s] %d/%d", strings.Repeat("#", full), strings.Repeat(" ", width-full), b.done, total)
	case err != nil:
		fmt.Fprintf(b.e.stderr, "%d/%d %s: failed\n", b.done, total, j.Volume)
	default:
		fmt.Fprintf(b.e.stderr, "%d/%d %s: %s\n", b.done, total, j.Volume, changes(&receipt))
	}
}

func (b *bulk) terminal() bool {
	f, ok := b.e.stderr.(*os.File)
	return ok && !b.e.json && term.IsTerminal(int(f.Fd()))
}

func (b *bulk) result() bulkResult {
	r := bulkResult{Volumes: b.jobs}
	for _, j := range b.jobs {
		if j.err != nil {
			r.Failed++
		}
	}
	return r
}

func (b *bulk) table(w io.Writer) {
	var rows [][]string
	for _, j := range b.jobs {
		result, what := "skipped", j.Skipped
		switch {
		case j.err != nil:
			result, what = "failed", strings.ReplaceAll(j.Error, "\n", "; ")
		case j.Receipt != nil && j.Receipt.Verified != nil:
			result, what = b.verb, changes(j.Receipt)
		case j.Receipt != nil && !j.Receipt.Changed():
			result, what = "unchanged", ""
		case j.Receipt != nil:
			result, what = b.verb, changes(j.Receipt)
		}
		rows = append(rows, []string{j.title(), result, what})
	}
	if len(rows) > 0 {
		table(w, []string{"NAME", "RESULT", "WHAT"}, rows)
	}
	for _, j := range b.jobs {
		if j.Receipt == nil {
			continue
		}
		for _, warning := range j.Receipt.Warnings {
			b.e.warn("%s: %s", j.Volume, warning)
		}
	}
}

// err is nil if every job went well.
func (b *bulk) err(ctx context.Context) error {
	failed := &bulkError{total: len(b.jobs), again: b.again}
	for _, j := range b.jobs {
		if j.err != nil {
			failed.failed++
			if failed.first == nil || volume.CodeOf(failed.first) == volume.CodeCanceled {
				failed.first = j.err
			}
		}
	}
	switch {
	case failed.failed == 0:
		return nil
	case ctx.Err() != nil:
		return &interruptedError{failed}
	case failed.total == 1:
		return failed.first
	}
	return failed
}

// bulkError is that some volumes failed; its exit status is that of the first.
type bulkError struct {
	failed, total int
	first         error
	again         string
}

func (e *bulkError) Error() string {
	return fmt.Sprintf("%d of %d volumes failed; they open as before", e.failed, e.total)
}

// Unwrap gives the first failure.
func (e *bulkError) Unwrap() error { return e.first }
