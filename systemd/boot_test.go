// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBootMountUnits(t *testing.T) {
	units, err := BootMount{Volume: "pg-1", Where: "/srv/100%/my data", Timeout: 90 * time.Second}.Units()
	if err != nil {
		t.Fatal(err)
	}
	const mount = "# Written by `voluks boot enable`; `voluks boot disable` removes it.\n" + `[Unit]
Description=Encrypted volume pg-1 on /srv/100%%/my data
Documentation=man:voluks(1)
DefaultDependencies=no
Conflicts=umount.target
Before=umount.target remote-fs.target
Requires=voluks-volume@pg-1.service
After=voluks-volume@pg-1.service

[Mount]
What=voluks:pg-1
Where=/srv/100%%/my data
Type=voluks
Options=defaults

[Install]
RequiredBy=remote-fs.target
WantedBy=multi-user.target

[X-Voluks]
Volume=pg-1
`
	if want := `srv-100\x25-my\x20data.mount`; units[0].Name != want || units[0].Content != mount {
		t.Errorf("%s:\n%s\nwant %s:\n%s", units[0].Name, units[0].Content, want, mount)
	}
	if want := "voluks-volume@pg-1.service.d/50-voluks-boot.conf"; units[1].Name != want || !regexp.MustCompile(`\nEnvironment=VOLUKS_BOOT_TIMEOUT=1m30s VOLUKS_BOOT_LANE=[0-3]\n`).MatchString(units[1].Content) ||
		!strings.Contains(units[1].Content, "\nTimeoutStartSec=390\n") || strings.Contains(units[1].Content, "network") {
		t.Errorf("%s:\n%s", units[1].Name, units[1].Content)
	}

	units, err = BootMount{Volume: "pg", Where: "/srv/pg", Timeout: time.Minute, NoFail: true, Network: true}.Units()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Before=umount.target\n", "Options=_netdev,nofail\n", "WantedBy=remote-fs.target\n"} {
		if !strings.Contains(units[0].Content, want) {
			t.Errorf("nofail: no %q in\n%s", want, units[0].Content)
		}
	}
	if !strings.Contains(units[1].Content, "After=network-online.target\n") || !strings.Contains(units[1].Content, "Wants=network-online.target\n") { // F43
		t.Errorf("network:\n%s", units[1].Content)
	}
}

func TestBootMountRefused(t *testing.T) {
	good := BootMount{Volume: "pg", Where: "/srv/pg", Timeout: time.Minute}
	for name, change := range map[string]func(*BootMount){
		"relative": func(b *BootMount) { b.Where = "srv/pg" }, "dots": func(b *BootMount) { b.Where = "/srv/../pg" }, "root": func(b *BootMount) { b.Where = "/" },
		"newline": func(b *BootMount) { b.Where = "/srv/a\nOptions=x" }, "end": func(b *BootMount) { b.Where = "/srv/a " }, "backslash": func(b *BootMount) { b.Where = `/srv/a\` },
		"long": func(b *BootMount) { b.Where = "/" + strings.Repeat("a", 300) }, "long name": func(b *BootMount) { b.Volume = strings.Repeat("a", 250) },
		"no time": func(b *BootMount) { b.Timeout = 0 }, "all time": func(b *BootMount) { b.Timeout = 1000 * time.Hour },
	} {
		b := good
		change(&b)
		if units, err := b.Units(); err == nil {
			t.Errorf("%s: %v", name, units)
		}
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEnableDisable(t *testing.T) {
	dir := t.TempDir()
	a := BootMount{Volume: "pg", Where: "/srv/pg", Timeout: time.Minute, Network: true}
	b := BootMount{Volume: "pg", Where: "/srv/copy", Timeout: time.Minute, Network: true, NoFail: true}
	for _, m := range []BootMount{a, b, a} {
		if err := m.Enable(dir); err != nil {
			t.Fatal(err)
		}
	}
	found, err := BootMounts(dir)
	if err != nil || !slices.Equal(found, []BootMount{b, a}) {
		t.Fatalf("%+v, %v", found, err)
	}
	want := []string{"multi-user.target.wants/srv-copy.mount", "multi-user.target.wants/srv-pg.mount", "remote-fs.target.requires/srv-pg.mount",
		"remote-fs.target.wants/srv-copy.mount", "srv-copy.mount", "srv-pg.mount", "voluks-volume@pg.service.d/50-voluks-boot.conf"}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("files\n%q, want\n%q", got, want)
	}
	for _, link := range want[:4] {
		if _, err := os.Stat(filepath.Join(dir, link)); err != nil {
			t.Errorf("link that leads nowhere: %v", err)
		}
	}

	// Changed: the link that makes the boot fail goes.
	a.NoFail = true
	if err := a.Enable(dir); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); slices.Contains(got, "remote-fs.target.requires/srv-pg.mount") || !slices.Contains(got, "remote-fs.target.wants/srv-pg.mount") {
		t.Errorf("files %q", got)
	}

	// The place is taken.
	other := a
	other.Volume = "redis"
	if err := other.Enable(dir); !errors.Is(err, ErrOtherUnit) {
		t.Errorf("another volume at the same place: %v", err)
	}
	foreign := filepath.Join(dir, "srv-nfs.mount")
	if err := os.WriteFile(foreign, []byte("[Mount]\nWhat=host:/x\nWhere=/srv/nfs\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (BootMount{Volume: "pg", Where: "/srv/nfs", Timeout: time.Minute}).Enable(dir); !errors.Is(err, ErrOtherUnit) {
		t.Errorf("somebody else's unit: %v", err)
	}

	for _, m := range []BootMount{b, a, a} {
		if err := m.Disable(dir); err != nil {
			t.Fatal(err)
		}
		if m == b {
			if found, err := BootMounts(dir); err != nil || len(found) != 1 || found[0] != a {
				t.Errorf("after the first: %+v, %v", found, err)
			}
		}
	}
	if got := files(t, dir); !slices.Equal(got, []string{"srv-nfs.mount"}) {
		t.Errorf("left: %q", got)
	}
}
