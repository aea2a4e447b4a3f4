#!/bin/sh
# alpine.sh: makes a root file system out of Alpine's mini root file system.
#
# usage: ARCHIVE=alpine-minirootfs-….tar.gz [SHA256=…] alpine.sh [--owner ID] [DEST]
#
#   --owner  as root: who is root in a container with a range of ids, such as 100000
#   DEST     the directory to make; target/rootfs in the project if not given
#   ARCHIVE  the file that you downloaded from Alpine's download page
#   SHA256   its checksum; if not given, the file ARCHIVE.sha256 has it
#
# Needs tar and sha256sum. Needs no root; downloads nothing.

set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

main() {
    begin "$@"
    only_dest "$@"
    archive=${ARCHIVE-}
    [ "$archive" ] || misuse "ARCHIVE is not set"
    if [ ! -f "$archive" ] || [ ! -r "$archive" ]; then
        die "$archive is not a file that can be read"
    fi
    verify

    stage
    must "unpack $archive" unpack z <"$archive"
    finish "${archive##*/}"
}

# What is in the archive is going to run, perhaps as root: it has to be the one
# that Alpine published.
verify() {
    wanted=${SHA256-}
    if [ -z "$wanted" ]; then
        [ -r "$archive.sha256" ] || die "no checksum: set SHA256, or put $archive.sha256 beside the archive"
        read -r wanted _ <"$archive.sha256" || [ "$wanted" ] || die "$archive.sha256 is empty"
    fi
    wanted=$(echo "$wanted" | tr A-F a-f)
    found=$(sha256sum <"$archive")
    found=${found%% *}
    [ "$found" = "$wanted" ] || die "$archive has the checksum $found, not $wanted"
}

main "$@"
