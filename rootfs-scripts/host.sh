#!/bin/sh
# host.sh: makes a root file system out of this machine's own shell and tools.
#
# usage: host.sh [--owner ID] [DEST [PROGRAM…]]
#
#   --owner  as root: who is root in a container with a range of ids, such as 100000
#   DEST     the directory to make; target/rootfs in the project if not given
#   PROGRAM  copied too, with its libraries, as /usr/local/bin/NAME
#
# Needs ldd. Needs neither root nor a network.

set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

# What this machine does not have is left out. A shell it must have.
tools='sh bash
    [ awk basename cat chgrp chmod chown chroot clear cp cut date dd df dirname du echo env expr
    false find free grep head hostname id ip kill less ln ls lsns mkdir mkfifo mknod more mount
    mountpoint mv nice nproc nsenter od ping pivot_root printf ps pwd readlink rm rmdir sed seq
    setpriv sleep sort stat stty sync tail tee test timeout top touch tr true truncate tty umount uname
    uniq unshare vi wc whoami xargs yes'
terms="${TERM-} xterm xterm-256color screen screen-256color tmux tmux-256color linux vt100"

# The system's own directories first: a PATH can begin with wrappers, such as pyenv's.
# The directories with current- in them are those of NixOS and Guix.
path=/usr/bin:/bin:/usr/sbin:/sbin:/run/current-system/sw/bin:/run/current-system/profile/bin:$PATH

# With them, ldd would list libraries that the container does not look for.
unset LD_LIBRARY_PATH LD_PRELOAD

main() {
    [ $# -le 1 ] || programs=$(shift && echo "$@")
    begin "$@"
    [ $# -eq 0 ] || shift
    command -v ldd >/dev/null || die "needs ldd, of the package libc-bin, glibc or gcc-toolchain"
    check_programs "$@"

    stage
    lay_out
    copy_programs "$@"
    copy_tools
    # Without the libraries, a program "does not exist": execve(2), ENOENT.
    list_libraries | copy_libraries
    copy_terminals
    write_etc 'host tools'
    # Without it, a vi that is vim stops to say that its defaults.vim is missing.
    must "make /root" mkdir -p "$new/root"
    write root/.vimrc </dev/null
    finish 'host tools'
}

check_programs() {
    for program; do
        is_program "$program" || die "$program is not a program that can be read and run"
        lost=$(ldd "$(absolute "$program")" 2>&1 | grep -e 'not found' -e 'Error loading' | head -n 1)
        # shellcheck disable=SC2086 # unquoted, so that the tab in front goes
        [ -z "$lost" ] || die "$program lacks a library:" $lost
    done
}

is_program() { [ -f "$1" ] && [ -x "$1" ] && [ -r "$1" ]; }

# Without the slash, ldd and cp could take a name for an option.
absolute() {
    case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}

copy_programs() {
    for program; do
        must "copy $program" copy "$(absolute "$program")" "usr/local/bin/${program##*/}"
    done
}

# copy FILE PLACE: the file that a link stands for, and without its setuid bit.
copy() {
    cp -L "$1" "$new/$2" && chmod 755 "$new/$2"
}

# Several tools can be one file, on Alpine all of busybox: inode numbers show it. The
# file is copied once, under its own name, and the tools are links to it.
copy_tools() {
    # All in one go: a cp for each would take longer than all the rest.
    find_tools | sort | {
        last=
        files=
        set --
        while read -r inode tool; do
            name=${tool##*/}
            if [ "$inode" != "$last" ]; then
                [ ! -L "$tool" ] || tool=$(readlink -f "$tool")
                file=${tool##*/}
                case $files in
                *"/$file/"*) file=$name && must "copy $tool" copy "$tool" "bin/$name" ;;
                *) set -- "$@" "$tool" ;;
                esac
                last=$inode
            fi
            files=$files/$file/$name/
            [ "$name" = "$file" ] || must "link $name" ln -sf "$file" "$new/bin/$name"
        done
        must 'copy the tools' cp -L "$@" "$new/bin/"
        must 'let all run the tools' chmod 755 "$new"/bin/*
    } || exit
    [ -e "$new/bin/sh" ] || [ ! -e "$new/bin/bash" ] || must "link sh" ln -s bash "$new/bin/sh"
    [ -e "$new/bin/sh" ] || die "found no sh and no bash in $path"
}

# Prints device:inode and path of each tool that is here.
find_tools() {
    # shellcheck disable=SC2086 # a list of words
    set -- $tools
    IFS=:
    for tool; do
        shift
        for dir in $path; do
            is_program "$dir/$tool" || continue
            set -- "$@" "$dir/$tool"
            break
        done
    done
    stat -L -c '%d:%i %n' "$@"
}

# Prints the path of each library, and of the loader, that the copies need.
list_libraries() {
    ldd_all 2>/dev/null | sed -n -e 's/ (0x[0-9a-f]*)$//' -e 's/^[[:space:]]\{1,\}//p' |
        # NAME => PATH; on NixOS both can be paths, and both are looked for.
        sed -e 's/ => /\n/' | grep '^/' | sort -u
}

# Fails for a static program, which needs nothing.
ldd_all() {
    case $(ldd --version 2>&1) in
    # musl's ldd looks at its first argument only.
    *musl*) find "$new/usr" -type f -exec ldd {} \; ;;
    *) find "$new/usr" -type f -exec ldd {} + ;;
    esac
}

copy_libraries() {
    while read -r library; do
        directory=${library%/*}
        [ -d "$new$directory" ] || must "make $directory" mkdir -p "$new$directory"
        must "copy $library" cp -L "$library" "$new$directory/"
        # A glibc before 2.34 opens it by name for whoami: ldd cannot know.
        case $library in
        */libc.so.6)
            [ ! -e "$directory/libnss_files.so.2" ] ||
                must "copy libnss_files" cp -L "$directory/libnss_files.so.2" "$new$directory/"
            ;;
        esac
    done
    # Where the loader finds a library outside /lib. See ld.so(8).
    for file in /etc/ld.so.cache /etc/ld-musl-*.path; do
        [ ! -r "$file" ] || must "copy $file" cp -L "$file" "$new/etc/"
    done
}

# Without them, an interactive shell cannot move the cursor. See terminfo(5).
copy_terminals() {
    for term in $terms; do
        letter=${term%"${term#?}"}
        for dir in /etc /lib /usr/share /usr/lib /run/current-system/sw/share /run/current-system/profile/share; do
            file=$dir/terminfo/$letter/$term
            [ -f "$file" ] || continue
            to=$new/usr/share/terminfo/$letter
            [ -d "$to" ] || must "make terminfo" mkdir -p "$to"
            must "copy $file" cp -L "$file" "$to/"
            break
        done
    done
}

main "$@"
