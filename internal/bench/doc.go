// SPDX-License-Identifier: Apache-2.0

// Package bench measures the figures of docs/figures.md. They are ratios between voluks and the tools that it replaces, taken
// side by side in one run in the small guest, since machines are noisy and a guest's absolute times mean nothing.
// `make bench` runs it; it fails where a ratio is worse than promised.
package bench
