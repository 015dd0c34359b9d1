// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/lateregexp"
)

// Name is what the name of a backup file says, all of it public: for example
//
//	g00000012-e57-20260102T030405Z-0123456789abcdef.luks2-header.gz.age
type Name struct {
	Generation uint64    // highest generation of a managed slot, see package keyslot
	Epoch      uint64    // of the metadata
	Taken      time.Time // to the second
	Digest     string    // first 16 hexadecimal digits of the SHA-256 of the file
}

const (
	suffix     = ".luks2-header.gz.age"
	timeLayout = "20060102T150405Z"
)

var namePattern = lateregexp.New(`^g(\d{8,20})-e(\d{1,20})-(\d{8}T\d{6}Z)-([0-9a-f]{16})` + regexp.QuoteMeta(suffix) + `$`)

// String returns the file name.
func (n Name) String() string {
	return fmt.Sprintf("g%08d-e%d-%s-%s%s", n.Generation, n.Epoch, n.Taken.UTC().Format(timeLayout), n.Digest, suffix)
}

// ParseName reads the name of a backup file; false for any other name.
func ParseName(s string) (Name, bool) {
	m := namePattern().FindStringSubmatch(s)
	if m == nil {
		return Name{}, false
	}
	var n Name
	var errs [3]error
	n.Generation, errs[0] = strconv.ParseUint(m[1], 10, 64)
	n.Epoch, errs[1] = strconv.ParseUint(m[2], 10, 64)
	n.Taken, errs[2] = time.Parse(timeLayout, m[3])
	n.Digest = m[4]
	for _, err := range errs {
		if err != nil {
			return Name{}, false
		}
	}
	return n, n.String() == s
}

// leftover tells a temporary file of a write that a crash ended: atomicfile hides them behind a dot and adds to the name.
func leftover(name string) bool {
	return strings.HasPrefix(name, ".g") && strings.Contains(name, suffix) || strings.HasPrefix(name, "."+ledgerFile)
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8])
}
