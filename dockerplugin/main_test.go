// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
