// SPDX-License-Identifier: Apache-2.0

// Package headerbackup keeps copies of LUKS2 headers that only the recovery identity opens, restores them, and destroys them.
//
// # What is in a backup
//
// The header area from its first byte to the first byte of data, as cryptsetup luksHeaderRestore wants it: both copies of the metadata, the key material
// of the slots that exist, and zeros everywhere else. So a slot that was destroyed does not live on in a backup, whatever the destroying left on the
// medium. It is compressed with gzip and encrypted with age to the recovery recipients. The node cannot read its own backups: whoever steals the
// node's key finds no old slots in them, and restoring one needs the identity. With age, gunzip and cryptsetup alone it goes as
//
//	age --decrypt --identity IDENTITY FILE | gunzip > HEADER && cryptsetup luksHeaderRestore DEVICE --header-backup-file HEADER
//
// # Where it lies
//
// In State/backups/UUID/ and, if one is configured, in UUID/ below a second directory, which may be unmounted or gone at any moment. The name says what
// may be public (generation, epoch, time) and ends in the first 16 hexadecimal digits of the SHA-256 of the content, so that the node can tell a
// damaged backup from a good one without being able to open either.
//
// # Destroying
//
// An old header and an old key reopen a volume, so a rotation takes a new backup and then destroys the older ones. Destroyed is a file that was
// overwritten and removed; what the medium keeps of it only the medium knows, and the report says what can be said. What cannot be reached
// now is not destroyed: it stays in the list of copies, the report is not complete, and the next call tries again.
//
// # Crashes
//
// Everything below State is written through atomicfile. After each write a crash leaves, and is mended by:
//
//	Take
//	  copies.json names the second copy        an entry for a file that is not there            Retire: gone, the entry is dropped
//	  temporary file                           ".NAME…", a leftover                             Take, Retire: destroyed like a backup
//	  NAME in State                            a backup without its second copy                 the next Take makes both
//	  NAME in the second directory             everything
//	Retire
//	  each file overwritten and removed        fewer old backups; the new one was checked before the next Retire goes on
//	  copies.json without what was destroyed   everything
//	Restore
//	  backup of the header that is there       one backup more
//	  key material of the restored slots       the old header, valid; of its slots those that lie elsewhere     Restore, again
//	  one copy of the metadata                 the restored header wins, by its epoch
//	  the other, which was the good one        the restored header, both copies
//	  zeros everywhere else                    everything
//
// Restore can be repeated at any point: the backup stays, and so does the one that it took of what was there.
//
// The caller holds the lock of the volume in all functions that take a volume.
package headerbackup
