#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes vector.txt: the fingerprint of the key 00 01 .. 1f, and a wrap of 32 times a5 with it.

HKDF is written out with hmac; AES-GCM comes from python3-cryptography.
"""
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MASTER = bytes(range(32))
UUID = b"6f2a1c1e-7d1e-4b7e-8a55-52f0a4d1c0de"
ROLE = b"agent"


def hkdf(info):
    prk = hmac.new(bytes(32), MASTER, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


binding = struct.pack(">I", len(UUID)) + UUID + struct.pack(">I", len(ROLE)) + ROLE
fingerprint = hashlib.sha256(hkdf(b"voluks kek file v1 id")).digest()[:8]
nonce = bytes(range(100, 112))
sealed = AESGCM(hkdf(b"voluks kek file v1 wrap " + binding)).encrypt(nonce, b"\xa5" * 32, binding)
print(fingerprint.hex())
print((b"\x01" + nonce + sealed).hex())
