#!/bin/sh
# debian.sh: makes a root file system out of Debian's packages: a minimal Debian.
#
# usage: [SUITE=stable] [MIRROR=URL] debian.sh [--owner ID] [DEST [OPTION…]]
#
#   --owner as root: who is root in a container with a range of ids, such as 100000
#   DEST    the directory to make; target/rootfs in the project if not given
#   OPTION  for the tool, mmdebstrap or debootstrap, such as --include=python3
#   SUITE   which Debian: stable, testing, bookworm, …
#   MIRROR  where the packages come from; if not given, the tool's own choice
#
# Needs a network and mmdebstrap, for an ordinary user also newuidmap (package
# uidmap) and a line in /etc/subuid; or root and debootstrap. On a distribution
# other than Debian the package debian-archive-keyring, too.

set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

suite=${SUITE:-stable}
hint=
[ "$(id -u)" -eq 0 ] || hint='; it needs newuidmap (package uidmap) and your name in /etc/subuid and /etc/subgid'

main() {
    # lib.sh reads it, to say that a finished rootfs was not made with them.
    # shellcheck disable=SC2034
    [ $# -le 1 ] || programs=$(shift && echo "$@")
    begin "$@"
    [ $# -eq 0 ] || shift
    tool=$(pick_tool) || exit
    stage
    "with_$tool" "$@"
    finish "Debian $suite"
}

pick_tool() {
    if command -v mmdebstrap >/dev/null; then
        echo mmdebstrap
    elif ! command -v debootstrap >/dev/null; then
        die "found neither mmdebstrap nor debootstrap; install the package mmdebstrap"
    elif [ "$(id -u)" -ne 0 ]; then
        die "debootstrap needs root; install the package mmdebstrap, which does not"
    else
        echo debootstrap
    fi
}

# By way of an archive: a directory that mmdebstrap makes for an ordinary user belongs
# to ids from /etc/subuid, and that user could not even remove it.
with_mmdebstrap() {
    run mmdebstrap --variant=minbase --format=tar "$@" -- "$suite" "$work/debian.tar" ${MIRROR:+"$MIRROR"} >&2 ||
        die "mmdebstrap failed, for the reason above$hint"
    must "unpack what mmdebstrap made" unpack <"$work/debian.tar"
}

# In a mount namespace: debootstrap mounts /proc inside, and killed, it leaves it.
with_debootstrap() {
    run unshare -m debootstrap --variant=minbase "$@" "$suite" "$new" ${MIRROR:+"$MIRROR"} >&2 ||
        die "debootstrap failed, for the reason above"
    # The container gets a /dev of its own.
    must "empty /dev" rm -rf -- "${new:?}"/dev/*
}

main "$@"
