// SPDX-License-Identifier: Apache-2.0

// Package doctor looks a node over and says what is wrong with it, why that matters and how it is mended.
//
// It only looks: it loads no module, takes no lock, connects to nothing, reads no key and touches no device. What it says comes from files of the
// configuration, from /proc and from /sys, so that it answers on a node where nothing else does, and so that its tests run on trees of
// files that show other machines.
package doctor
