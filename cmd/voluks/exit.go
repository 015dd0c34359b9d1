// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/passphrase"
	"github.com/voluks/voluks/internal/volume"
)

// The exit statuses. A number is never given another meaning.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitExists      = 4
	exitInUse       = 5
	exitLocked      = 6
	exitRefused     = 7
	exitDamaged     = 8
	exitNoSpace     = 9
	exitUnsupported = 10
	exitTimeout     = 11
	exitConfig      = 12
	exitUnwell      = 13
	exitInterrupted = 130
)

// exitTable is what --help and the manual say about them.
var exitTable = []struct {
	code int
	text string
}{
	{exitOK, "done"},
	{exitFailure, "failed for a reason that has no status of its own"},
	{exitUsage, "wrong command line, option or value; nothing was done"},
	{exitNotFound, "no such volume"},
	{exitExists, "exists already; a volume: with other options"},
	{exitInUse, "in use or busy"},
	{exitLocked, "no key: the key provider is away, refuses, or does not have it"},
	{exitRefused, "not confirmed: answered no, or no terminal and no --force"},
	{exitDamaged, "damaged, unfinished, or not proven to be encrypted"},
	{exitNoSpace, "no space"},
	{exitUnsupported, "this machine lacks something: device-mapper, or a program"},
	{exitTimeout, "took too long and was undone, or is stuck in the kernel"},
	{exitConfig, "not set up, or the configuration or the master key is wrong"},
	{exitUnwell, "doctor found something that has to be mended"},
	{exitInterrupted, "interrupted"},
}

// exitsOf are the statuses that each command can end with, apart from the first three, which all can.
var exitsOf = map[string][]int{
	"voluks init":            {exitExists, exitLocked, exitRefused, exitConfig, exitInterrupted},
	"voluks serve":           {exitInUse, exitConfig},
	"voluks generate":        {},
	"voluks worker":          {},
	"voluks version":         {},
	"voluks boot enable":     {exitNotFound, exitExists, exitDamaged, exitConfig},
	"voluks boot disable":    {exitNotFound},
	"voluks boot ls":         {},
	"voluks boot open":       {exitNotFound, exitInUse, exitLocked, exitDamaged, exitUnsupported, exitTimeout, exitConfig, exitInterrupted},
	"voluks boot release":    {exitInUse, exitTimeout, exitInterrupted},
	"voluks boot mount":      {exitNotFound, exitDamaged},
	"voluks boot wait":       {exitLocked, exitConfig, exitInterrupted},
	"voluks boot close":      {exitInUse, exitTimeout, exitInterrupted},
	"voluks systemd units":   {},
	"voluks systemd install": {},
	"voluks doctor":          {exitUnwell},
	"voluks volume create":   {exitExists, exitInUse, exitLocked, exitDamaged, exitNoSpace, exitUnsupported, exitTimeout, exitConfig, exitInterrupted},
	"voluks volume ls":       {},
	"voluks volume inspect":  {exitNotFound},
	"voluks volume mount":    {exitNotFound, exitInUse, exitLocked, exitDamaged, exitUnsupported, exitTimeout, exitConfig, exitInterrupted},
	"voluks volume umount":   {exitNotFound, exitInUse, exitTimeout, exitInterrupted},
	"voluks volume grow":     {exitNotFound, exitInUse, exitLocked, exitDamaged, exitNoSpace, exitUnsupported, exitTimeout, exitConfig, exitInterrupted},
	"voluks volume trim":     {exitNotFound, exitInUse, exitDamaged, exitTimeout, exitInterrupted},
	"voluks volume rm":       {exitNotFound, exitInUse, exitRefused, exitTimeout, exitInterrupted},
	"voluks volume undelete": {exitNotFound, exitExists, exitInUse, exitDamaged, exitTimeout, exitInterrupted},
	"voluks volume erase":    {exitNotFound, exitInUse, exitRefused, exitDamaged, exitTimeout, exitInterrupted},
	"voluks keyslot adopt":   {exitNotFound, exitLocked, exitRefused, exitConfig, exitInterrupted},
	"voluks boot crypttab":   {exitNotFound, exitConfig},
	"voluks boot key":        {exitConfig},
	"voluks keyslot ls":      {exitNotFound, exitDamaged},
	"voluks keyslot add":     {exitNotFound, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks keyslot rm":      {exitNotFound, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks keyslot test":    {exitNotFound, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks keyslot rotate":  {exitNotFound, exitInUse, exitLocked, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks kek ls":          {exitConfig, exitInterrupted},
	"voluks kek test":        {exitLocked, exitConfig, exitInterrupted},
	"voluks kek create":      {exitExists, exitLocked, exitConfig},
	"voluks kek rotate":      {exitNotFound, exitInUse, exitLocked, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks kek revoke":      {exitInUse, exitLocked, exitDamaged, exitTimeout, exitConfig, exitInterrupted},

	"voluks header backup":  {exitNotFound, exitInUse, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks header ls":      {exitNotFound, exitConfig},
	"voluks header check":   {exitNotFound, exitLocked, exitRefused, exitDamaged, exitConfig, exitInterrupted},
	"voluks header restore": {exitNotFound, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},

	"voluks volume migrate": {exitNotFound, exitExists, exitInUse, exitLocked, exitRefused, exitDamaged, exitNoSpace, exitUnsupported, exitTimeout, exitConfig, exitInterrupted},
	"voluks volume import":  {exitNotFound, exitExists, exitInUse, exitLocked, exitDamaged, exitUnsupported, exitTimeout, exitConfig, exitInterrupted},

	"voluks recovery show":    {exitConfig},
	"voluks recovery split":   {exitExists, exitRefused, exitInterrupted},
	"voluks recovery check":   {exitRefused, exitInterrupted},
	"voluks recovery combine": {exitExists, exitRefused, exitInterrupted},
	"voluks recovery init":    {exitExists, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks recovery rekey":   {exitExists, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks recovery verify":  {exitNotFound, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks recovery key add": {exitNotFound, exitExists, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
	"voluks recovery key rm":  {exitNotFound, exitInUse, exitLocked, exitRefused, exitDamaged, exitTimeout, exitConfig, exitInterrupted},
}

// exitStatus renders the rows of these codes and of the first three; without any code, the whole table.
func exitStatus(codes ...int) string {
	var b strings.Builder
	for _, row := range exitTable {
		if len(codes) == 0 || row.code <= exitUsage || slices.Contains(codes, row.code) {
			fmt.Fprintf(&b, "%3d  %s\n", row.code, row.text)
		}
	}
	return b.String()
}

// byCode gives the exit status of each kind of failure of a volume.
var byCode = map[volume.Code]int{
	volume.CodeNotFound:   exitNotFound,
	volume.CodeExists:     exitExists,
	volume.CodeUnfinished: exitDamaged,
	volume.CodeInUse:      exitInUse,
	volume.CodeBusy:       exitInUse,
	volume.CodeLocked:     exitLocked,
	volume.CodeStuck:      exitTimeout,
	volume.CodeDamaged:    exitDamaged,
	volume.CodeInvalid:    exitUsage,
	volume.CodeConfig:     exitConfig,
	volume.CodeNoSpace:    exitNoSpace,
	volume.CodeNoDM:       exitUnsupported,
	volume.CodeNoTool:     exitUnsupported,
	volume.CodeNoRecovery: exitConfig,
	volume.CodePlaintext:  exitDamaged,
	volume.CodeTimeout:    exitTimeout,
	volume.CodeCanceled:   exitInterrupted,
}

// usageError is a command line that cannot be meant. Command is what has a --help about it, "voluks volume rm".
type usageError struct {
	command string
	text    string
}

func (e *usageError) Error() string { return e.text }

// refusedError is something destructive that nobody confirmed. Retry is the command line that does it without asking, or "".
type refusedError struct {
	text  string
	retry string
}

func (e *refusedError) Error() string { return e.text }

// interruptedError is what came of a command that a signal ended.
type interruptedError struct{ err error }

func (e *interruptedError) Error() string { return "interrupted: " + e.err.Error() }
func (e *interruptedError) Unwrap() error { return e.err }

// setupError is a node that is not set up: there is no configuration.
type setupError struct{ err error }

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// agentError is a second agent.
type agentError struct{ pid int }

func (e *agentError) Error() string {
	if e.pid == 0 {
		return "another agent runs on this node"
	}
	return fmt.Sprintf("another agent runs on this node (pid %d)", e.pid)
}

// exitCode gives the exit status of an error, and errorCode its name in JSON.
func exitCode(err error) int {
	var interrupted *interruptedError
	var usage *usageError
	var refused *refusedError
	var agent *agentError
	var setup *setupError
	var cfg *config.Error
	var exists *existsError
	var key *keyfile.Error
	var unwell *unwellError
	var backups *backupsError
	var luks1 *luks1Error
	var weak *passphrase.WeakError
	var share *shareError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &interrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage), errors.As(err, &share), errors.As(err, &weak), errors.As(err, &luks1), errors.Is(err, errNotTheSame):
		return exitUsage
	case errors.As(err, &refused):
		return exitRefused
	case errors.As(err, &agent):
		return exitInUse
	case errors.As(err, &exists), errors.Is(err, keyfile.ErrExists):
		return exitExists
	case errors.As(err, &unwell):
		return exitUnwell
	case errors.As(err, &backups):
		return exitDamaged
	}
	if code, ok := byCode[volume.CodeOf(err)]; ok {
		return code
	}
	var setting *kek.ConfigError
	switch {
	case errors.As(err, &setup), errors.As(err, &cfg), errors.As(err, &key):
		return exitConfig
	case volume.KeyMissing(err):
		return exitLocked
	case errors.As(err, &setting):
		return exitConfig
	}
	return exitFailure
}

// errorCode names the kind of an error for programs: that of the volume where there is one, else that of the exit status.
func errorCode(err error) string {
	switch exitCode(err) {
	case exitRefused:
		return "refused"
	case exitInterrupted:
		return "interrupted"
	case exitUnwell:
		return "unwell"
	}
	var agent *agentError
	if errors.As(err, &agent) {
		return "agent_running"
	}
	if code := volume.CodeOf(err); code != volume.CodeInternal {
		return string(code)
	}
	switch exitCode(err) {
	case exitDamaged:
		return string(volume.CodeDamaged)
	case exitUsage:
		return "usage"
	case exitExists:
		return "exists"
	case exitLocked:
		return string(volume.CodeLocked)
	case exitConfig:
		return string(volume.CodeConfig)
	}
	return "failure"
}
