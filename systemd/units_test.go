// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// needNamespace are the settings that give a service a mount namespace of its own (systemd.exec(5)). Mounts made there do not reach the host. F20
var needNamespace = regexp.MustCompile(`^(PrivateTmp|PrivateDevices|PrivateMounts|PrivateUsers|PrivateNetwork|PrivatePIDs|ProtectSystem|ProtectHome|ProtectProc|ProcSubset|` +
	`ProtectKernelTunables|ProtectKernelModules|ProtectKernelLogs|ProtectControlGroups|MountFlags|MountAPIVFS|RootDirectory|RootImage|ReadOnlyPaths|ReadWritePaths|` +
	`InaccessiblePaths|ExecPaths|NoExecPaths|BindPaths|BindReadOnlyPaths|TemporaryFileSystem|MountImages|ExtensionImages|ExtensionDirectories|BindLogSockets|` +
	`LogNamespace|DynamicUser|NetworkNamespacePath|PrivateIPC|IPCNamespacePath)=`)

func settings(t *testing.T, u Unit) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	section := ""
	lines := bufio.NewScanner(strings.NewReader(u.Content))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				t.Fatalf("%s: %q", u.Name, line)
			}
			all[section+"."+key] = append(all[section+"."+key], value)
		}
		if needNamespace.MatchString(line) {
			t.Errorf("%s: %s gives it a mount or IPC namespace of its own", u.Name, line)
		}
	}
	return all
}

func TestUnits(t *testing.T) {
	units, err := Units(Program)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, u := range units {
		names = append(names, u.Name)
		s := settings(t, u)
		if strings.HasSuffix(u.Name, ".conf") {
			continue
		}
		if len(s["Unit.Description"]) != 1 || len(s["Unit.Documentation"]) != 1 {
			t.Errorf("%s has no description or documentation", u.Name)
		}
		for _, exec := range slices.Concat(s["Service.ExecStart"], s["Service.ExecStop"]) {
			exec = strings.TrimPrefix(exec, "/usr/bin/flock --no-fork /run/voluks/lane.${VOLUKS_BOOT_LANE} ")
			if !strings.HasPrefix(strings.TrimPrefix(exec, "-"), Program+" ") {
				t.Errorf("%s runs %s", u.Name, exec)
			}
			// A core dump would hold keys.
			if !slices.Equal(s["Service.LimitCORE"], []string{"0"}) {
				t.Errorf("%s may dump core", u.Name)
			}
		}
	}
	want := []string{"docker-.scope.d/50-voluks.conf", "libpod-.scope.d/50-voluks.conf", "var-lib-voluks-mnt-.mount.d/50-voluks.conf", "voluks-gate.service", "voluks-keys.socket", "voluks-keys@.service",
		"voluks-shutdown.service", "voluks-volume@.service", "voluks.service",
		"voluks.socket"}
	if !slices.Equal(names, want) {
		t.Errorf("units are %q, want %q", names, want)
	}
}

// What containers depend on at boot and at shutdown. F23
func TestOrder(t *testing.T) {
	units, err := Units(Program)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		before := strings.Join(settings(t, u)["Unit.Before"], " ")
		if strings.Contains(u.Name, "@") || strings.HasSuffix(u.Name, ".conf") || u.Name == "voluks-keys.socket" {
			continue
		}
		if !slices.Contains(strings.Fields(before), "docker.service") {
			t.Errorf("%s is not before docker.service", u.Name)
		}
		if len(u.WantedBy) == 0 {
			t.Errorf("nothing starts %s", u.Name)
		}
	}
}

func TestUnitsOfAnotherProgram(t *testing.T) {
	units, err := Units("/opt/voluks/bin/voluks")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		if strings.Contains(u.Content, Program) {
			t.Errorf("%s still runs %s", u.Name, Program)
		}
	}
	for _, bad := range []string{"voluks", "", "/opt/my programs/voluks", "/a%b", `/a"b`} {
		if _, err := Units(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// F19
func TestUdevRules(t *testing.T) {
	if !strings.Contains(UdevRules, `ENV{DM_NAME}=="voluks-*"`) || UdevFile <= "99-systemd.rules" {
		t.Errorf("%s:\n%s", UdevFile, UdevRules)
	}
}

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	units := []Unit{{Name: "a.service", Content: "one"}, {Name: "b.mount.d/c.conf", Content: "two"}}
	written, err := Install(dir, units)
	if err != nil || len(written) != 2 {
		t.Fatalf("wrote %q, %v", written, err)
	}
	for _, u := range units {
		have, err := os.ReadFile(filepath.Join(dir, u.Name))
		if err != nil || string(have) != u.Content {
			t.Errorf("%s: %q, %v", u.Name, have, err)
		}
	}
	units[1].Content = "three"
	if written, err = Install(dir, units); err != nil || !slices.Equal(written, []string{filepath.Join(dir, units[1].Name)}) {
		t.Errorf("the second time it wrote %q, %v", written, err)
	}
	// A masked unit is the administrator's word.
	if err := os.Remove(filepath.Join(dir, "a.service")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "a.service")); err != nil {
		t.Fatal(err)
	}
	if written, err = Install(dir, units); err == nil {
		t.Errorf("a masked unit was replaced: %q", written)
	}
}

func TestControl(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho \"$LC_ALL $*\"\n[ \"$1\" != start ] || { echo no such unit >&2; exit 5; }\n"
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	out, err := Control(t.Context(), "daemon-reload")
	if out != "C daemon-reload\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if _, err = Control(t.Context(), "start", "x.service"); err == nil || err.Error() != "systemctl start x.service: exit status 5: no such unit" {
		t.Errorf("%v", err)
	}
}
