// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	mib = 1 << 20
	// maxSize is far above what any file system here is run with and far below where sums of sizes
	// could overflow 63 bits.
	maxSize = 1 << 50
)

// units are the powers of 1024, by letter. A bare number is refused: 10 could mean bytes or GiB.
const units = "KMGTPE"

// SizeError is a size that was not understood or is not usable.
type SizeError struct {
	Text   string // as it was written
	Reason string // what is wrong, and an example of how to write it
}

// Error implements error.
func (e *SizeError) Error() string { return fmt.Sprintf("size %q: %s", e.Text, e.Reason) }

// ParseSize reads a size such as "512M", "10G" or "1.5T" and returns bytes. K, M, G, T and P are
// powers of 1024, also written KiB, MiB and so on, in any case. The result is a whole number of MiB,
// at least one, at most 1024T. Errors are *SizeError.
func ParseSize(text string) (int64, error) {
	fail := func(format string, args ...any) (int64, error) {
		return 0, &SizeError{Text: text, Reason: fmt.Sprintf(format, args...)}
	}
	s := strings.TrimSpace(text)
	digits := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	switch {
	case s == "":
		return fail("is empty; write for example 512M or 10G")
	case strings.HasPrefix(s, "-"):
		return fail("is negative; write for example 512M or 10G")
	case strings.Trim(s, "0.") == "":
		return fail("is nothing; write for example 512M or 10G")
	case digits < 0:
		return fail("has no unit; write for example %sM or %sG", s, s)
	case digits == 0:
		return fail("is not a number with a unit; write for example 512M or 10G")
	}
	number, unit := s[:digits], strings.ToUpper(strings.TrimSpace(s[digits:]))
	power := strings.Index(units, unit[:1])
	if power >= 0 && unit[1:] == "B" {
		return fail("unit %s can be read as a power of 1000 or of 1024; write %s%c, which is 1024", s[digits:], number, unit[0])
	}
	if power < 0 || unit[1:] != "" && unit[1:] != "IB" {
		return fail("has an unknown unit %q; use K, M, G, T or P, for example 512M or 10G", strings.TrimSpace(s[digits:]))
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range is +Inf: too large, below
		return fail("is not a number with a unit; write for example 512M or 10G")
	}
	bytes := value * math.Pow(1024, float64(power+1))
	switch {
	case bytes == 0:
		return fail("is nothing; write for example 512M or 10G")
	case bytes > maxSize:
		return fail("is more than the largest volume, 1024T; write for example 10G")
	case bytes < mib:
		return fail("is less than the smallest size, 1M; write for example 512M")
	case bytes != math.Trunc(bytes) || int64(bytes)%mib != 0:
		return fail("is not a whole number of MiB; write for example %dM", int64(math.Ceil(bytes/mib)))
	}
	return int64(bytes), nil
}

// SizeText writes a size as ParseSize reads it, in the largest unit that loses nothing: "10G",
// "1536M". Bytes that are not a whole number of MiB are written as bytes with a B, which ParseSize
// refuses.
func SizeText(bytes int64) string {
	if bytes <= 0 || bytes%mib != 0 {
		return strconv.FormatInt(bytes, 10) + "B"
	}
	n, power := bytes/mib, 1
	for n%1024 == 0 && power < 3 { // up to T, in which the limit is told
		n, power = n/1024, power+1
	}
	return strconv.FormatInt(n, 10) + units[power:power+1]
}

// FormatSize writes a size for people, with at most one decimal: "10 GiB", "1.5 GiB", "213 MiB".
// It rounds to nearest and is not meant to be read back.
func FormatSize(bytes int64) string {
	if bytes < 0 {
		return "-" + FormatSize(-max(bytes, -math.MaxInt64))
	}
	if bytes < 1024 {
		return strconv.FormatInt(bytes, 10) + " B"
	}
	value, power := float64(bytes), -1
	for value >= 1023.95 && power < len(units)-1 { // 1023.95 would be printed as 1024.0
		value, power = value/1024, power+1
	}
	text := strconv.FormatFloat(value, 'f', 1, 64)
	return strings.TrimSuffix(text, ".0") + " " + units[power:power+1] + "iB"
}
