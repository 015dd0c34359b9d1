// SPDX-License-Identifier: Apache-2.0

package clevis

// For tests with programs of their own: New looks in Searched.
var (
	NewIn    = newIn
	Searched = searched
)
