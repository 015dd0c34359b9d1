// SPDX-License-Identifier: Apache-2.0

//go:build voluks_crashpoints

package crashpoint

func init() { enabled = true }
