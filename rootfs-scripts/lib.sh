# lib.sh: what all the scripts of this directory share. It is sourced, not run.
# shellcheck shell=sh
#
# Sourced, it takes the option --owner off the arguments. A script reads DEST with
# `begin`, makes a directory beside it with `stage`, fills that directory, "$new", and
# puts it into place with `finish`. Whatever happens before `finish`, DEST is not touched.

# Without it, the umask of the caller could make a /bin that only root can enter.
umask 022
# Without it, an error of cp or tar comes in one language and ours in another.
export LC_ALL=C
# Set, it makes cd go elsewhere and print where: see cd(1p).
unset CDPATH

me=${0##*/}
# A finished rootfs has this file, which says what it was made from.
marker=.made-by
work=
child=
newline='
'

die() {
    printf '%s: %s\n' "$me" "$*" >&2
    exit 1
}

misuse() {
    printf '%s: %s; see %s --help\n' "$me" "$*" "$me" >&2
    exit 2
}

# must DOING COMMAND…: runs a short command; should it fail, our own sentence ends
# with its reason, such as "No space left on device".
must() {
    doing=$1
    shift
    said=$("$@" 2>&1) || die "cannot $doing: $(reason "$said")"
}

# From "cp: error writing 'x': Permission denied" and more lines, the part that says why.
reason() {
    case $1 in *'No space left'* | *'Wrote only'*) echo 'No space left on device' && return ;; esac
    first=${1#"$newline"} # gzip begins with an empty line
    first=${first%%"$newline"*}
    printf '%s\n' "${first##*: }"
}

# run COMMAND…: runs a long command. In the background, because a shell that waits
# for a foreground command does not hear a signal before that command ends. In a
# session, and so a process group, of its own, so that clean can end it with all
# its children. See setsid(1).
run() {
    setsid "$@" &
    child=$!
    wait "$child" || { child= && return 1; }
    child=
}

# begin [DEST [MORE…]]: reads the arguments, and refuses a DEST that is not ours.
begin() {
    case ${1-} in
    -h | --help)
        sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    -*) misuse "unknown option $1" ;;
    esac
    [ "${1-unset}" ] || misuse "DEST is empty"
    # From the script's own place, so that it does not matter where one stands.
    DEST=${1-$(cd -P -- "$(dirname -- "$0")/.." && pwd)/target/rootfs}

    case $DEST in /*) ;; *) DEST=$PWD/$DEST ;; esac
    if [ -d "$DEST" ]; then
        # Symbolic links and dots resolved: the temporary directory has to be beside
        # the real DEST, on the same file system, to be renamed.
        given=$DEST
        DEST=$(cd -P -- "$given" 2>/dev/null && pwd -P) || die "cannot enter $given"
        case $DEST in / | //) die "DEST is /, this machine's own root" ;; esac
        remove_leftovers
        stop_if_finished
        inside=$(ls -A -- "$DEST" 2>/dev/null) || die "cannot read $DEST"
        [ -z "$inside" ] || die "$DEST is not empty and was not made by these scripts"
    elif [ -e "$DEST" ] || [ -L "$DEST" ]; then
        die "$DEST exists and is not a directory"
    else
        while [ "$DEST" != "${DEST%/}" ]; do DEST=${DEST%/}; done
        case ${DEST##*/} in . | ..) die "$DEST does not exist" ;; esac
    fi
}

only_dest() {
    [ $# -le 1 ] || misuse "one DEST, not $#"
}

stop_if_finished() {
    [ -f "$DEST/$marker" ] || return 0
    # Said to have been left as it is, it would be taken for one with these programs in it.
    with=${programs-}${owner:+ owner $owner}
    [ -z "$with" ] || die "$DEST already holds a rootfs: remove it, to make one with ${with# }"
    read -r made <"$DEST/$marker" || made='from what is not known'
    echo "$DEST already holds a rootfs ($made) and was left as it is; remove it to make it anew"
    exit 0
}

# stage: makes "$new", the empty directory beside DEST that becomes the rootfs.
stage() {
    must "make the directory for $DEST" mkdir -p -- "${DEST%/*}/"
    remove_leftovers
    trap clean EXIT
    # dash(1) does not run the EXIT trap for a signal that has no trap of its own.
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    must "make $DEST.partial.$$" mkdir -- "$DEST.partial.$$.$(began $$)"
    work=$DEST.partial.$$.$(began $$)
    new=$work/$marker # for the name, see finish
    must "make $new" mkdir -- "$new"
}

# kill -9 leaves nobody to clean up; the next run does. The name ends in the id of the
# process that was at work and the time at which that began, as the id alone may be
# another process's by now; a living one may still be at it.
remove_leftovers() {
    [ -d "/proc/$$" ] || return 0 # without /proc, all would look dead
    for old in "$DEST".partial.*.*; do
        began=${old##*.}
        pid=${old%.*}
        pid=${pid##*.}
        case $pid$began in '' | *[!0-9]*) continue ;; esac
        [ "$(began "$pid")" != "$began" ] || continue
        # Without that directory in it, it is ours if it is empty: killed right after it was made.
        if [ -d "$old/$marker" ]; then remove "$old"; else rmdir -- "$old"; fi 2>/dev/null || true
    done
}

# began PID: when a process began, in clock ticks since the machine did; nothing if it
# is gone. Field 22 of proc_pid_stat(5), counted from behind the name, which may have
# blanks in it.
began() {
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
    # shellcheck disable=SC2086 # a list of words
    set -- ${stat##*) }
    shift 19 && echo "$1"
}

remove() {
    rm -rf -- "$1" 2>/dev/null && return
    # Only root may empty a directory without its w bit, and images have such directories.
    chmod -R u+rwX -- "$1"
    rm -rf -- "$1"
}

# A script that has more to remove than its directory defines clean_more.
clean_more() { :; }

clean() {
    trap '' HUP INT TERM # a second Ctrl-C would stop the cleaning
    if [ "$child" ]; then
        kill -- "-$child" 2>/dev/null || kill "$child" 2>/dev/null || true
        wait "$child" || true
    fi
    clean_more
    [ -z "$work" ] || remove "$work"
}

# lay_out: the directories of a rootfs that holds programs. Four names for one directory
# of programs, as Fedora and Arch have it: nobody need know which one a tool is in.
lay_out() {
    must "make /usr" mkdir -p "$new/usr/bin" "$new/usr/lib" "$new/usr/lib64" "$new/usr/local/bin" "$new/etc"
    must "link /bin" ln -s usr/bin "$new/bin"
    must "link /sbin" ln -s usr/bin "$new/sbin"
    must "link /usr/sbin" ln -s bin "$new/usr/sbin"
    must "link /lib" ln -s usr/lib "$new/lib"
    must "link /lib64" ln -s usr/lib64 "$new/lib64"
}

# write FILE: puts its input into a file of the new rootfs.
write() {
    must "write /$1" write_stdin "$new/$1"
}

write_stdin() { cat >"$1"; }

# write_etc NAME: the files without which a shell works, but looks lost.
write_etc() {
    # Without them, id and whoami have numbers only.
    write etc/passwd <<-END
	root:x:0:0:root:/root:/bin/sh
	nobody:x:65534:65534:nobody:/:/bin/false
	END
    write etc/group <<-END
	root:x:0:
	nobody:x:65534:
	END
    # Without them, glibc asks a name server who localhost is. See nsswitch.conf(5).
    write etc/hosts <<-END
	127.0.0.1 localhost
	::1 localhost
	END
    write etc/nsswitch.conf <<-END
	passwd: files
	group: files
	hosts: files dns
	END
    write etc/os-release <<-END
	NAME="$1"
	PRETTY_NAME="$1"
	ID=rootfs-scripts
	END
    # For a login shell only: sh -l.
    write etc/profile <<-'END'
	export PATH=/usr/local/bin:/usr/bin
	PS1='\u@\h:\w\$ '
	END
}

# unpack [z]: unpacks the tar archive, z for a gzipped one, that is its input.
# The container gets a /dev of its own, and an ordinary user cannot make the nodes.
unpack() {
    zip=${1-}
    set -- '--exclude=./dev/*' '--exclude=dev/*'
    case $(tar --help 2>&1) in
    *--anchored*) set -- --anchored "$@" ;; # GNU's would leave out foo/dev/*, too
    *--exclude*) ;;
    *) set -- ;; # a small busybox
    esac
    if may_chown; then
        # Without them, a program like ping lacks the capabilities of its file.
        case $(tar --help 2>&1) in
        *--xattrs-include*) set -- --xattrs '--xattrs-include=security.capability' "$@" ;;
        esac
        # By name, the owner would become the user of that name on this machine.
        tar -C "$new" "-x${zip}pf" - --numeric-owner "$@"
    else
        tar -C "$new" "-x${zip}of" - "$@"
    fi
}

# Root of a user namespace with few ids in it cannot give a file to the others.
may_chown() {
    [ "$(id -u)" -eq 0 ] && awk '{ ids += $3 } END { exit ids < 65536 }' /proc/self/uid_map
}

# directories MODE DIR…: directories of the rootfs that something is mounted on.
directories() {
    mode=$1
    shift
    for dir; do
        # An archive can hold a link here that leads to a directory of this machine.
        if [ -L "$new/$dir" ] || [ -L "$new/${dir%/*}" ]; then continue; fi
        [ -d "$new/$dir" ] || must "make /$dir" mkdir -p "$new/$dir"
        [ "$mode" = 755 ] || must "open /$dir to all" chmod "$mode" "$new/$dir"
    done
}

# give: each id N becomes $owner + N, which a container whose map begins there has as N
# again; the highest first, so that none is found twice. chown(2) clears the setuid bit,
# so the mode is set anew; not of a link, as chmod would change what that leads to. It clears
# the capabilities of a file, too.
give() {
    [ "$owner" ] || return 0
    capabilities=$(file_capabilities)
    find "$new" -exec stat -c '%u %g %a' {} + | sort -u | sort -rn | while read -r uid gid mode; do
        must "give it to $owner (only root may)" find "$new" -user "$uid" -group "$gid" -perm "$mode" \
            -exec chown -h "$((owner + uid)):$((owner + gid))" {} + ! -type l -exec chmod "$mode" {} +
    done || exit
    [ -z "$capabilities" ] || printf '%s\n' "$capabilities" | must 'give capabilities to files' setfattr -h --restore=-
}

# file_capabilities: those of the new rootfs, as setfattr(1) takes them: for the container whose
# root is $owner, and for nobody else. That is version 3 of the format, which is version 2 and
# an id at its end. See capabilities(7). Without getfattr, there are none any more.
file_capabilities() {
    command -v getfattr >/dev/null || return 0
    id=$(printf '%02x%02x%02x%02x' $((owner & 255)) $((owner >> 8 & 255)) $((owner >> 16 & 255)) $((owner >> 24)))
    getfattr -R -P -h -m '^security\.capability$' -d -e hex --absolute-names -- "$new" |
        sed "s/^security\.capability=0x\(..\)000002\(.*\)/security.capability=0x\1000003\2$id/"
}

# finish FROM: puts the new rootfs into place, in one step, and says so.
finish() {
    directories 755 dev mnt proc root run sys var
    directories 1777 tmp var/tmp # 1 is the sticky bit: see unlink(2), EPERM
    # A directory that one may not write to cannot be moved: its .. changes.
    must "open / to its owner" chmod 755 "$new"
    rm -rf -- "${new:?}/$marker" # an archive can hold a link here, too
    echo "$me: $1" | write "$marker"
    give
    size=$(du -sk -- "$new" 2>/dev/null || true)

    # rename(2) replaces no directory but an empty one, and mv moves *into* a directory
    # that is there: another run may have finished first. There our directory's name
    # is taken, by the marker, which is a file; so mv fails, and nothing is nested.
    if [ -d "$DEST" ] && ! rmdir -- "$DEST" 2>/dev/null; then
        stop_if_finished
        die "cannot replace the directory $DEST: it is a mount point, or no longer empty"
    fi
    if ! said=$(mv -- "$new" "$DEST" 2>&1); then
        stop_if_finished
        die "cannot put $DEST into place: $(reason "$said")"
    fi
    remove_leftovers # also what a killed run's last commands have still written meanwhile
    echo "made $DEST ($(((${size%%[!0-9]*} + 1023) / 1024)) MB, $1)"
}

# Here and not in a function, where it would be that one's arguments.
owner=
case ${1-} in --owner)
    owner=${2-}
    case $owner in '' | *[!0-9]*) misuse "--owner takes an id" ;; esac
    shift 2
    ;;
esac
