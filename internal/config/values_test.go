// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1M": 1 << 20, "512M": 512 << 20, "10G": 10 << 30, "10g": 10 << 30, "10GiB": 10 << 30, " 10 G ": 10 << 30,
		"1.5T": 3 << 39, "2048K": 2 << 20, "1024T": 1 << 50, "1P": 1 << 50, "0.5G": 512 << 20, "007M": 7 << 20,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                             `size "": is empty; write for example 512M or 10G`,
		"0":                            `size "0": is nothing; write for example 512M or 10G`,
		"0G":                           `size "0G": is nothing; write for example 512M or 10G`,
		"10":                           `size "10": has no unit; write for example 10M or 10G`,
		"-1G":                          `size "-1G": is negative; write for example 512M or 10G`,
		"1E":                           `size "1E": is more than the largest volume, 1024T; write for example 10G`,
		"1025T":                        "is more than the largest volume",
		"16E":                          "is more than the largest volume",
		"512K":                         "is less than the smallest size, 1M",
		"1500K":                        "is not a whole number of MiB; write for example 2M",
		"1.1G":                         "is not a whole number of MiB; write for example 1127M",
		"10GB":                         "unit GB can be read as a power of 1000 or of 1024; write 10G, which is 1024",
		"10X":                          `has an unknown unit "X"`,
		"10B":                          `has an unknown unit "B"`,
		"10GG":                         `has an unknown unit "GG"`,
		"1e3G":                         `has an unknown unit "e3G"`,
		"0x10G":                        `has an unknown unit "x10G"`,
		"big":                          "is not a number with a unit",
		"+1G":                          "is not a number with a unit",
		"1.2.3G":                       "is not a number with a unit",
		"1,5G":                         "has an unknown unit",
		"١٠G":                          "is not a number with a unit",
		strings.Repeat("9", 400) + "G": "is more than the largest volume",
	} {
		got, err := ParseSize(text)
		var typed *SizeError
		if got != 0 || !errors.As(err, &typed) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSize(%q) = %d, %v; want %q", text, got, err, want)
		}
	}
}

func TestSizeText(t *testing.T) {
	for bytes, want := range map[int64]string{1 << 20: "1M", 10 << 30: "10G", 1536 << 20: "1536M", 1 << 50: "1024T", 0: "0B", -1: "-1B", 1<<20 + 1: "1048577B"} {
		if got := SizeText(bytes); got != want {
			t.Errorf("SizeText(%d) = %s, want %s", bytes, got, want)
		}
	}
	for bytes := int64(mib); bytes <= maxSize; bytes = bytes*3 + mib {
		if got, err := ParseSize(SizeText(bytes)); err != nil || got != bytes {
			t.Errorf("%d is written as %s and read as %d, %v", bytes, SizeText(bytes), got, err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 10 << 30: "10 GiB", 1<<30 + 52<<20: "1.1 GiB",
		1<<20 - 1: "1 MiB", 1<<40 - 1: "1 TiB", 1 << 50: "1 PiB", math.MaxInt64: "8 EiB", -1536: "-1.5 KiB", math.MinInt64: "-8 EiB",
	} {
		if got := FormatSize(bytes); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "24h": day, "1d12h": 36 * time.Hour, "30m": 30 * time.Minute, "0": 0, "0s": 0, "0d": 0, "1h30m": 90 * time.Minute,
	} {
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
		if again, err := ParseDuration(DurationText(got)); err != nil || again != got {
			t.Errorf("%v is written as %s and read as %v, %v", got, DurationText(got), again, err)
		}
	}
	for text, want := range map[string]string{
		"": "is empty", "90": "has no unit", "-1h": "is negative", "-1d": "is negative", "1d-2h": "is negative", "1.5d": "whole number of days", "d": "whole number of days",
		"soon": "is not a number", "1w": "is not a number", "999999d": "is too long", "106751d99h": "is too long", "9999999999h": "is not a number",
	} {
		got, err := ParseDuration(text)
		var typed *DurationError
		if got != 0 || !errors.As(err, &typed) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "write for example 24h or 90d") {
			t.Errorf("ParseDuration(%q) = %v, %v; want %q", text, got, err, want)
		}
	}
	for d, want := range map[time.Duration]string{90 * day: "90d", day: "24h", 36 * time.Hour: "36h", 90 * time.Minute: "1h30m", 0: "0s", 10 * time.Second: "10s"} {
		if got := DurationText(d); got != want {
			t.Errorf("DurationText(%v) = %s, want %s", d, got, want)
		}
	}
}

// F11: a device is named by what stays with the medium.
func TestBackingNames(t *testing.T) {
	parse := func(text string) (Config, error) { return Parse("config.toml", []byte(text), DefaultPaths()) }
	cfg, err := parse("[backing]\ndevices = [\"/dev/disk/by-id/ata-one\"]\nvolume_groups = [\"vg0\"]\n")
	if err != nil || len(cfg.Backing.Devices) != 1 || len(cfg.Backing.VolumeGroups) != 1 {
		t.Errorf("%+v, %v", cfg.Backing, err)
	}
	for _, device := range []string{"/dev/sda", "/dev/disk/by-uuid/x", "/dev/disk/by-label/x", "/dev/dm-0", "/dev/disk/by-id/", "by-id/x", "/dev/disk/by-id/../../sda"} {
		if _, err := parse("[backing]\ndevices = [\"" + device + "\"]\n"); err == nil || !strings.Contains(err.Error(), "backing.devices[0]") {
			t.Errorf("%s: %v", device, err)
		}
	}
	for _, group := range []string{"", "--help", "vg/lv"} {
		if _, err := parse("[backing]\nvolume_groups = [\"" + group + "\"]\n"); err == nil || !strings.Contains(err.Error(), "backing.volume_groups[0]") {
			t.Errorf("%s: %v", group, err)
		}
	}
}
