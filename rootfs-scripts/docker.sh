#!/bin/sh
# docker.sh: makes a root file system out of an image of docker or podman.
#
# usage: [IMAGE=busybox] docker.sh [--owner ID] [DEST]
#
#   --owner  as root: who is root in a container with a range of ids, such as 100000
#   DEST     the directory to make; target/rootfs in the project if not given
#   IMAGE    the image; one that is not on this machine is pulled
#
# Needs docker, its daemon and the right to talk to it; or podman.

set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

image=${IMAGE:-busybox}
engine=
# A name of our own: known even if the script is stopped before the engine prints an id.
container=rootfs-scripts-$$-$(date +%s)

main() {
    begin "$@"
    only_dest "$@"
    engine=$(pick_engine) || exit
    stage
    # Never started; but an image without a command of its own is refused without one.
    run "$engine" create --name "$container" "$image" /bin/sh >/dev/null ||
        die "$engine cannot make a container of $image, for the reason above"
    run "$engine" export -o "$work/image.tar" "$container" ||
        die "$engine cannot export $image, for the reason above"
    must "unpack $image" unpack <"$work/image.tar"
    finish "image $image"
}

pick_engine() {
    seen=
    for name in docker podman; do
        command -v "$name" >/dev/null || continue
        seen="$seen $name"
        # docker without its daemon, or without the right to its socket, fails here.
        if "$name" ps -q >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    [ -z "$seen" ] || die "${seen# } does not answer: is its daemon running, and may you use it (see: ${seen##* } ps)?"
    die "found neither docker nor podman; install one of them"
}

clean_more() {
    [ -z "$engine" ] || "$engine" rm -f "$container" >/dev/null 2>&1 || true
}

main "$@"
