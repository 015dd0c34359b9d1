// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"fmt"
	"time"

	helpers "github.com/docker/go-plugins-helpers/volume"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func created(info volume.Info) string { return info.Created.UTC().Format(time.RFC3339) }

// describe is what docker volume inspect shows. Everyone who may talk to Docker reads it, so it holds no secret; what is
// unknown is left out. Sizes come once for people and once in bytes.
func describe(info volume.Info, now time.Time) *helpers.Volume {
	status := map[string]any{
		"state":      string(info.State),
		"size":       config.FormatSize(info.Size),
		"size_bytes": info.Size,
		"uuid":       info.UUID,
		"cipher":     info.Cipher,
		"fs":         info.FS,
		"backing":    info.Backing,
		"holders":    len(info.Holders),
		"slots":      slots(info.Slots),
	}
	if info.Reason != "" {
		status["reason"] = info.Reason
	}
	if info.NextTry != nil {
		status["next_try"] = info.NextTry.UTC().Format(time.RFC3339)
	}
	if info.Used != nil {
		status["used"] = config.FormatSize(*info.Used)
		status["used_bytes"] = *info.Used
	}
	if info.KeySince != nil {
		status["key_age"] = keyAge(info.KeyAge(now))
	}
	if len(info.Warnings) > 0 {
		status["warnings"] = info.Warnings
	}
	return &helpers.Volume{Name: info.Name, Mountpoint: info.Mountpoint, CreatedAt: created(info), Status: status}
}

func slots(infos []volume.SlotInfo) []map[string]any {
	list := []map[string]any{}
	for _, s := range infos {
		slot := map[string]any{"role": s.Role, "slot": s.Number}
		if s.Generation > 0 {
			slot["generation"] = s.Generation
		}
		if s.KEK != "" {
			slot["kek"] = s.KEK
		}
		list = append(list, slot)
	}
	return list
}

// keyAge is told in days, since keys are rotated after tens of them.
func keyAge(age time.Duration) string {
	return fmt.Sprintf("%d days", int(max(age, 0)/(24*time.Hour)))
}
