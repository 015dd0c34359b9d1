// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// DurationError is a duration that was not understood or is not usable.
type DurationError struct {
	Text   string // as it was written
	Reason string // what is wrong with it
}

// Error implements error.
func (e *DurationError) Error() string { return fmt.Sprintf("duration %q: %s", e.Text, e.Reason) }

// ParseDuration reads "90d", "24h", "1d12h" or "30m": days of 24 hours, then what time.ParseDuration
// knows. Negative durations are refused. Errors are *DurationError.
func ParseDuration(text string) (time.Duration, error) {
	fail := func(reason string) (time.Duration, error) {
		return 0, &DurationError{Text: text, Reason: reason + "; write for example 24h or 90d"}
	}
	s := strings.TrimSpace(text)
	if strings.HasPrefix(s, "-") {
		return fail("is negative")
	}
	var days time.Duration
	if number, rest, found := strings.Cut(s, "d"); found {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return fail("does not start with a whole number of days")
		}
		if n > uint64(math.MaxInt64/int64(day)) {
			return fail("is too long")
		}
		days, s = time.Duration(n)*day, rest
		if s == "" {
			return days, nil
		}
	}
	if s == "" {
		return fail("is empty")
	}
	if strings.Trim(s, "0123456789") == "" && s != "0" {
		return fail("has no unit")
	}
	rest, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return fail("is not a number with a unit")
	case rest < 0:
		return fail("is negative")
	case days+rest < 0:
		return fail("is too long")
	}
	return days + rest, nil
}

// DurationText writes a duration as ParseDuration reads it, in days where that is exact: "90d", "24h"
// for a single day, "1h30m".
func DurationText(d time.Duration) string {
	if d > day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String() // 24h0m0s
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
