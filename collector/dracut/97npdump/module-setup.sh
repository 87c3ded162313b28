#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# dracut: npdump in an initramfs, for kdump-utils (Fedora, RHEL: core_collector in /etc/kdump.conf) and for openSUSE's
# kdump, which calls makedumpfile by that name: NPDUMP_AS_MAKEDUMPFILE=yes in /etc/npdump/collector.conf.
# Ask for it: dracut --add npdump, or add_dracutmodules+=" npdump ".

# called by dracut
check() {
    require_binaries npdump || return 1
    return 255
}

# called by dracut
depends() {
    local INITRAMFS_NETWORK=no

    # shellcheck source=/dev/null
    [[ ! -r /etc/npdump/collector.conf ]] || . /etc/npdump/collector.conf
    [[ $INITRAMFS_NETWORK != yes ]] || echo network
    return 0
}

# called by dracut
install() {
    local NPDUMP_AS_MAKEDUMPFILE=no INITRAMFS=no NPDUMP_ARGS='' program

    # shellcheck source=/dev/null
    [[ ! -r /etc/npdump/collector.conf ]] || . /etc/npdump/collector.conf
    # shellcheck disable=SC2154
    npdump collector install "$initdir" || return 1
    # What is missing there is to be heard of now, and not after a crash.
    # shellcheck disable=SC2086
    chroot "$initdir" /usr/bin/npdump --check-params ${NPDUMP_ARGS:--l -d 31} vmcore dumpfile || return 1
    inst_simple /usr/sbin/npdump-collect
    inst_simple /usr/lib/npdump/makedumpfile
    inst_multiple awk cat cp date df mkdir mktemp mount mv reboot rm sleep stat sync
    inst_multiple -o /etc/npdump/collector.conf hostname ssh \
        /etc/ssh/ssh_known_hosts /root/.ssh/known_hosts /root/.ssh/kdump_id_rsa
    if [[ $INITRAMFS != no ]]; then
        inst_simple /usr/lib/npdump/save-in-initramfs
        # shellcheck disable=SC2154
        inst_hook pre-pivot 90 "$moddir/save.sh"
    fi
    if [[ $NPDUMP_AS_MAKEDUMPFILE == yes ]]; then
        # Where this machine has it: what is there already is not installed again by kdump's own module.
        for program in /usr/bin/makedumpfile $(type -P makedumpfile); do
            mkdir -p "$initdir${program%/*}"
            ln -sf /usr/bin/npdump "$initdir$program"
        done
    else
        inst_multiple -o makedumpfile
    fi
    [[ -z ${dracutsysrootdir-} ]] || derror "npdump: only this machine's own files are installed"
}
