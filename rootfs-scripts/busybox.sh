#!/bin/sh
# busybox.sh: makes a root file system out of one file, a static busybox.
#
# usage: busybox.sh [--owner ID] [DEST]
#
#   --owner  as root: who is root in a container with a range of ids, such as 100000
#   DEST     the directory to make; target/rootfs in the project if not given
#
# Needs a busybox that is statically linked, and ldd to see that it is: the package
# busybox-static on Debian, Ubuntu and Alpine, busybox on Fedora and Arch. Needs
# neither root nor a network.

set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

main() {
    begin "$@"
    only_dest "$@"
    busybox=$(find_static_busybox) || exit

    stage
    lay_out
    must "copy $busybox" cp -L "$busybox" "$new/bin/busybox"
    link_applets
    write_etc busybox
    finish busybox
}

find_static_busybox() {
    IFS=:
    for dir in $PATH:/usr/sbin:/sbin; do
        for file in "$dir/busybox.static" "$dir/busybox"; do
            if [ -f "$file" ] && [ -x "$file" ] && is_static "$file"; then
                echo "$file"
                return
            fi
        done
    done
    die "found no static busybox in PATH; install busybox-static (Debian, Ubuntu, Alpine) or busybox (Fedora, Arch)"
}

# A dynamic one would start no more: its loader is outside the rootfs.
is_static() {
    command -v ldd >/dev/null || die "needs ldd to see whether $1 is static"
    case $(ldd "$1" 2>/dev/null) in *' => '* | */ld-*) return 1 ;; esac
}

# `busybox --install -s` would link to the path that busybox has on this machine.
link_applets() {
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || must "link $applet" ln -s busybox "$new/bin/$applet"
    done
}

main "$@"
