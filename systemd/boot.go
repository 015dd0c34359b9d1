// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/unit"

	"github.com/voluks/voluks/internal/atomicfile"
)

// MountType is the file system type of boot mounts: mount(8) runs mount.voluks for it, which proves what it mounts. systemd's own bind mount would
// make a missing source directory, and so put plaintext where a volume is not mounted.
const MountType = "voluks"

const (
	// MinBootTimeout and MaxBootTimeout bound how long a boot mount may wait for its key.
	MinBootTimeout = time.Second
	// MaxBootTimeout is the other bound.
	MaxBootTimeout = 24 * time.Hour

	longestUnit = 255             // bytes of a unit's name
	lanes       = 4               // of volumes that are opened at the same time; the unit of volumes says how
	turns       = 5 * time.Minute // for a volume to get its turn and be opened, without its wait for a key
	ourSection  = "X-Voluks"
	dropIn      = "50-voluks-boot.conf"
	target      = "remote-fs.target"
)

// BootMount is a volume that is opened and mounted at boot, for services of the host. Any unit with RequiresMountsFor= of Where waits for it.
//
// It belongs to remote-fs.target and not to local-fs.target: that one's failure would stop the boot in a shell on the console, and one volume whose key
// does not come must not cost the way into the machine.
type BootMount struct {
	Volume  string        // its name
	Where   string        // absolute, in its shortest form
	NoFail  bool          // the boot does not wait for it, and remote-fs.target does not fail with it
	Timeout time.Duration // how long it waits for the key; per volume: the last one that was enabled counts
	Network bool          // its key comes over the network
}

// VolumeUnit is the unit that opens a volume for its boot mounts. The name of a volume has no character that needs escaping there.
func VolumeUnit(volume string) string { return "voluks-volume@" + volume + ".service" }

// Name is the mount unit's name, which follows from Where.
func (b BootMount) Name() string { return unit.UnitNamePathEscape(b.Where) + ".mount" }

// Units are the unit files of the boot mount: the mount unit, and what its volume's unit is told.
func (b BootMount) Units() ([]Unit, error) {
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("boot mount of volume %q: %w", b.Volume, err)
	}
	o := unit.NewUnitOption
	before := "umount.target"
	install, options := "RequiredBy", []string{"defaults"}
	if b.Network {
		options = []string{"_netdev"}
	}
	if b.NoFail {
		install, options = "WantedBy", append(options, "nofail")
	} else {
		before += " " + target
	}
	mount := []*unit.UnitOption{
		o("Unit", "Description", "Encrypted volume "+b.Volume+" on "+escapeSpecifiers(b.Where)),
		o("Unit", "Documentation", "man:voluks(1)"),
		// Those of local mounts would order it before services that its volume needs.
		o("Unit", "DefaultDependencies", "no"),
		o("Unit", "Conflicts", "umount.target"),
		o("Unit", "Before", before),
		o("Unit", "Requires", VolumeUnit(b.Volume)),
		o("Unit", "After", VolumeUnit(b.Volume)),
		o("Mount", "What", MountType+":"+b.Volume),
		o("Mount", "Where", escapeSpecifiers(b.Where)),
		o("Mount", "Type", MountType),
		o("Mount", "Options", strings.Join(options, ",")),
		o("Install", install, target),
		o("Install", "WantedBy", "multi-user.target"),
		o(ourSection, "Volume", b.Volume),
	}
	var volume []*unit.UnitOption
	if b.Network {
		volume = append(volume, o("Unit", "Wants", "network-online.target"), o("Unit", "After", "network-online.target"))
	}
	// systemd forgets by how much this was extended when it is told to read its units again, so it must do without.
	volume = append(volume, o("Service", "TimeoutStartSec", fmt.Sprint(int((b.Timeout+turns).Seconds()))))
	volume = append(volume, o("Service", "Environment", fmt.Sprintf("VOLUKS_BOOT_TIMEOUT=%v VOLUKS_BOOT_LANE=%d", b.Timeout, lane(b.Volume))))
	return []Unit{
		{Name: b.Name(), Content: text(mount), WantedBy: []string{"multi-user.target"}},
		{Name: filepath.Join(VolumeUnit(b.Volume)+".d", dropIn), Content: text(volume)},
	}, nil
}

// lane spreads volumes over the lanes.
func lane(volume string) uint32 {
	h := fnv.New32a()
	io.WriteString(h, volume)
	return h.Sum32() % lanes
}

func text(options []*unit.UnitOption) string {
	var b bytes.Buffer
	b.WriteString("# Written by `voluks boot enable`; `voluks boot disable` removes it.\n")
	io.Copy(&b, unit.Serialize(options))
	return b.String()
}

// escapeSpecifiers keeps systemd from taking a percent sign for one of its specifiers.
func escapeSpecifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }

func (b BootMount) check() error {
	switch {
	case !filepath.IsAbs(b.Where) || filepath.Clean(b.Where) != b.Where:
		return fmt.Errorf("%q is not an absolute path in its shortest form", b.Where)
	case b.Where == "/":
		return errors.New("it cannot be mounted on /")
	case strings.ContainsFunc(b.Where, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) || strings.TrimSpace(b.Where) != b.Where:
		return fmt.Errorf("%q has characters in it that a unit cannot hold", b.Where)
	case len(b.Name()) > longestUnit || len(VolumeUnit(b.Volume)) > longestUnit:
		return errors.New("the name or the path is too long for the name of a unit")
	case b.Timeout < MinBootTimeout || b.Timeout > MaxBootTimeout:
		return fmt.Errorf("the time to wait is from %v to %v, not %v", MinBootTimeout, MaxBootTimeout, b.Timeout)
	}
	return nil
}

// ErrOtherUnit says that the place is taken by a unit that voluks did not write, or wrote for another volume.
var ErrOtherUnit = errors.New("the mount unit exists and is not this volume's")

// Enable writes the units of a boot mount below dir (/etc/systemd/system) and makes systemd start them at boot. It may be repeated, and changes
// what was enabled before. systemd has to reload afterwards. ErrOtherUnit if something else has the place.
func (b BootMount) Enable(dir string) error {
	units, err := b.Units()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, b.Name())
	have, err := readMount(path)
	switch {
	case err == nil && have.Volume != b.Volume:
		return fmt.Errorf("enable %s: %w", path, ErrOtherUnit)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := Install(dir, units); err != nil {
		return err
	}
	links := b.links(dir)
	for _, link := range allLinks(dir, b.Name()) {
		if slices.Contains(links, link) {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("enable %s: %w", b.Name(), err)
		}
	}
	for _, link := range links {
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return fmt.Errorf("enable %s: %w", b.Name(), err)
		}
		if err := os.Symlink("../"+b.Name(), link); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("enable %s: %w", b.Name(), err)
		}
	}
	return nil
}

func (b BootMount) links(dir string) []string {
	all := allLinks(dir, b.Name())
	if b.NoFail {
		return []string{all[0], all[1]}
	}
	return []string{all[0], all[2]}
}

// allLinks are the places where an enabled mount unit may be linked.
func allLinks(dir, name string) []string {
	return []string{
		filepath.Join(dir, "multi-user.target.wants", name),
		filepath.Join(dir, target+".wants", name),
		filepath.Join(dir, target+".requires", name),
	}
}

// Disable removes what Enable has written. What is mounted stays mounted. systemd has to reload afterwards.
func (b BootMount) Disable(dir string) error {
	paths := append(allLinks(dir, b.Name()), filepath.Join(dir, b.Name()))
	others, err := BootMounts(dir)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(others, func(o BootMount) bool { return o.Volume == b.Volume && o.Where != b.Where }) {
		drop := filepath.Join(dir, VolumeUnit(b.Volume)+".d", dropIn)
		paths = append(paths, drop, filepath.Dir(drop))
	}
	for _, path := range paths {
		err := os.Remove(path)
		if filepath.Ext(path) == ".d" && err != nil {
			continue // drop-ins of the administrator are in it
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disable %s: %w", b.Name(), err)
		}
	}
	return nil
}

// BootMounts lists the boot mounts below dir, by their path. Units that voluks did not write are not among them.
func BootMounts(dir string) ([]BootMount, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.mount"))
	if err != nil {
		return nil, err
	}
	var found []BootMount
	for _, path := range paths {
		b, err := readMount(path)
		if errors.Is(err, ErrOtherUnit) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, b)
	}
	slices.SortFunc(found, func(a, b BootMount) int { return strings.Compare(a.Where, b.Where) })
	return found, nil
}

// readMount reads a mount unit of ours, with what the drop-in of its volume says. ErrOtherUnit for a unit that is not ours.
func readMount(path string) (BootMount, error) {
	mount, err := readUnit(path)
	if err != nil {
		return BootMount{}, err
	}
	b := BootMount{Volume: mount[ourSection+".Volume"], Where: strings.ReplaceAll(mount["Mount.Where"], "%%", "%")}
	if b.Volume == "" || b.Where == "" {
		return b, fmt.Errorf("%s: %w", path, ErrOtherUnit)
	}
	b.NoFail = slices.Contains(strings.Split(mount["Mount.Options"], ","), "nofail")
	volume, err := readUnit(filepath.Join(filepath.Dir(path), VolumeUnit(b.Volume)+".d", dropIn))
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	_, b.Network = volume["Unit.Wants"]
	timeout, _, _ := strings.Cut(strings.TrimPrefix(volume["Service.Environment"], "VOLUKS_BOOT_TIMEOUT="), " ")
	if b.Timeout, err = time.ParseDuration(timeout); err != nil {
		return b, fmt.Errorf("read the drop-in of %s: %w", VolumeUnit(b.Volume), err)
	}
	return b, nil
}

// readUnit reads a unit's settings by "Section.Name". Of a repeated one the last counts. A link, such as that of a masked unit, is ErrOtherUnit.
func readUnit(path string) (map[string]string, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, ErrOtherUnit)
	}
	b, err := atomicfile.Read(path, maxUnit)
	if err != nil {
		return nil, fmt.Errorf("read unit: %w", err)
	}
	options, err := unit.DeserializeOptions(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("read unit %s: %w", path, err)
	}
	all := map[string]string{}
	for _, o := range options {
		all[o.Section+"."+o.Name] = o.Value
	}
	return all, nil
}
