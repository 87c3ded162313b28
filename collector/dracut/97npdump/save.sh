#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# dracut, before the real system, which was mounted, is started: in a capture kernel, save the dump into it.

[ ! -s /proc/vmcore ] || /usr/lib/npdump/save-in-initramfs "$NEWROOT"
