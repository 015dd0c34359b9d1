// SPDX-License-Identifier: Apache-2.0

// Package header reads LUKS2 headers: both copies, without libcryptsetup, without any key derivation, and without ever writing.
//
// It exists for three reasons. libcryptsetup repairs a damaged copy as soon as it loads a header, so only a reader of our own can report the damage. It
// accepts whatever the (unauthenticated) metadata says, a null cipher included, so [Header.Strict] decides what voluks is ready to open. And tokens,
// slots and sizes can be looked at in the agent, where libcryptsetup must not run.
//
// The reader takes any input: it returns errors, never panics, reads at most 13 MiB and allocates in proportion to that. Where Go's JSON decoder and the
// one of libcryptsetup could understand a document differently (keys that occur twice or differ in case, NUL characters, numbers with a fraction), it
// refuses the document. The format is that of "LUKS2 On-Disk Format Specification", cryptsetup project.
package header

import "encoding/json"

// Limits of the format.
const (
	MaxKeyslots = 32 // slots are numbered from 0 to 31
	MaxTokens   = 32 // tokens are numbered from 0 to 31
)

// Header is the metadata of one LUKS2 container as the better of its two copies tells it. It is plain data; changing it changes nothing on the disk.
type Header struct {
	UUID      string // as written by the formatter, in lower case with dashes; not authenticated, like everything here
	Label     string // at most 47 bytes
	Subsystem string // at most 47 bytes
	Epoch     uint64 // grows by one with each write of the metadata
	Size      int64  // bytes of one copy: 4096 of binary header and the JSON area; the second copy begins there
	Space     int64  // bytes of the device or file that was read

	Keyslots map[int]Keyslot // by number
	Tokens   map[int]Token   // by number
	Segments map[int]Segment // by number
	Digests  map[int]Digest  // by number
	Config   Config          // of the metadata

	Copies [2]Copy // first and second
	JSON   []byte  // the metadata of the chosen copy as it was on the disk, without padding
	Raw    []byte  // the bytes from the start of the device that were read at once; with the size that voluks writes, both copies in full

	other   *Header  // what the copy that was not chosen says, if it is sound
	unknown []string // members that this package does not know, outside tokens and key slots
}

// Copy is what was found of one of the two copies.
type Copy struct {
	Offset int64  // in bytes
	Epoch  uint64 // 0 when the copy is not readable
	Err    error  // nil: good. Otherwise ErrMagic, ErrChecksum, ErrStale, ErrDiffers, an I/O error, or what is malformed in it
}

// Keyslot is one key slot: where its key material lies and how a slot key opens it.
type Keyslot struct {
	Type     string // "luks2"; anything else is of another's making and only Type and Area are filled in
	KeySize  int    // bytes of the volume key it holds
	Priority *int   // nil: normal
	AF       AF     // anti-forensic splitter
	Area     Area   // where the key material lies
	KDF      KDF    // from the slot key to the area's key
}

// AF is the anti-forensic splitter of a key slot.
type AF struct {
	Type    string // "luks1"
	Stripes int    // 4000
	Hash    string // such as "sha256"
}

// Area is the part of the device that holds a slot's key material, encrypted.
type Area struct {
	Type         string // "raw"
	Offset, Size int64  // bytes from the start of the device
	Encryption   string // cipher of the key material
	KeySize      int    // bytes
}

// KDF is the key derivation of a key slot. Hash and Iterations belong to pbkdf2; Time, Memory and CPUs to argon2i and argon2id.
type KDF struct {
	Type       string // "pbkdf2", "argon2i" or "argon2id"
	Hash       string // of pbkdf2
	Iterations int    // of pbkdf2
	Time       int    // of argon2: passes
	Memory     int    // KiB
	CPUs       int    // of argon2: threads
	Salt       []byte // decoded
}

// Token is one token: a JSON object of anybody's making that may point to key slots.
type Token struct {
	Type     string          // such as "voluks-agent"
	Keyslots []int           // in the order of the token
	JSON     json.RawMessage // the whole object as on the disk
}

// Segment is one range of the device and its encryption.
type Segment struct {
	Type       string   // "crypt", or "linear" during re-encryption
	Offset     int64    // bytes
	Size       int64    // bytes; 0 with Dynamic
	Dynamic    bool     // to the end of the device
	IVTweak    uint64   // sectors
	Encryption string   // cipher
	SectorSize int      // bytes
	Integrity  bool     // it has an integrity profile, which voluks never makes
	Flags      []string // such as "backup-final"
}

// Digest proves that an opened volume key is the right one, for the slots and segments that it names.
type Digest struct {
	Type         string // "pbkdf2"
	Hash         string // of pbkdf2
	Iterations   int    // of pbkdf2
	Salt, Digest []byte // decoded
	Keyslots     []int  // numbers of the slots that hold its key
	Segments     []int  // numbers of the segments that its key encrypts
}

// Config is the part of the metadata about the container as a whole.
type Config struct {
	JSONSize     int64    // bytes
	KeyslotsSize int64    // bytes of the area behind the two copies, where the slots' areas lie
	Flags        []string // activation flags that plain cryptsetup applies on open
	Requirements []string // features that a reader must know to be allowed to open it; re-encryption is one
}

// Damage returns nil if both copies are good, else a *DamagedError. Call it before anything loads the header through libcryptsetup: that repairs the bad
// copy and removes the evidence.
func (h *Header) Damage() error {
	if h.Copies[0].Err == nil && h.Copies[1].Err == nil {
		return nil
	}
	return &DamagedError{Primary: h.Copies[0].Err, Secondary: h.Copies[1].Err}
}
