#!/bin/sh
# Restores this backup into an empty folder, without Lifeboat. Needs age, zstd,
# tar, sha256sum and awk, and PostgreSQL itself to start what it leaves; with
# `latest` or `before-gap` also pg_waldump, for an increment pg_combinebackup; with
# pg_verifybackup the files of a differential are held against their checksums. The
# folder layout above this script must be that of the vault, because the WAL is
# found at ../../wal, and what this backup builds upon beside this folder.
set -eu
umask 077
# Names are compared by their bytes.
LC_ALL=C
export LC_ALL

die() { echo "restore.sh: $*" >&2; exit 1; }
say() { echo "restore.sh: $*" >&2; }

if [ $# -lt 2 ]; then
    echo "usage: restore.sh IDENTITY TARGET_DIR [latest | before-gap] [SHA256:FINGERPRINT]

IDENTITY     a file with an age identity that this backup was written to
TARGET_DIR   an empty folder, or one to be made: PostgreSQL's data folder
latest       replay all WAL of the vault; else recovery ends with the backup
before-gap   the same, but where WAL is missing, give up what lies behind it
FINGERPRINT  of the signing key; the signature of the manifest is checked by it" >&2
    exit 2
fi
identity=$1 target=$2
shift 2
mode=backup gives_up=no fingerprint=${LIFEBOAT_FINGERPRINT:-}
for argument in "$@"; do
    case $argument in
        latest) mode=latest ;;
        before-gap) mode=latest gives_up=yes ;;
        SHA256:*) fingerprint=$argument ;;
        *) die "unknown argument $argument" ;;
    esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
wal=$here/../../wal
for tool in age zstd tar sha256sum awk; do
    command -v "$tool" >/dev/null || die "$tool is not installed"
done
# From here on work is done elsewhere than where these names were given.
case $identity in /*) ;; *) identity=$PWD/$identity ;; esac
case $target in /*) ;; *) target=$PWD/$target ;; esac
if [ ! -r "$identity" ] || [ -d "$identity" ]; then die "the identity $identity cannot be read"; fi
if [ -e "$target" ]; then
    [ -d "$target" ] || die "$target is not a folder"
    [ -z "$(ls -A "$target")" ] || die "$target is not empty; restore into an empty folder"
fi
# The data must not lie decrypted in the vault.
vault=$(CDPATH='' cd -- "$here/../.." && pwd -P) above=$target
while [ ! -d "$above" ]; do above=$(dirname "$above"); done
case $(CDPATH='' cd -- "$above" && pwd -P)/ in
    "$vault"/*) die "$target lies in the vault, below $vault; restore into a folder elsewhere" ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# 1. What is here is what was signed.
[ -n "$fingerprint" ] || say "no fingerprint was given: the signature of manifest.json is not checked"
field() {
    awk -F'"' -v name="$1" '$2 == name { value = $4; if (value == "") { value = $3; gsub(/[^0-9a-z]/, "", value) } print value; exit }' manifest.json
}
check_backup() {
    if [ -n "$fingerprint" ]; then
        command -v ssh-keygen >/dev/null || die "ssh-keygen is not installed; it checks the signature"
        ssh-keygen -Y check-novalidate -n lifeboat-manifest -s manifest.json.sig <manifest.json >"$work/signature" 2>&1 ||
            die "$1: the signature does not fit manifest.json; do not trust this copy"
        awk -v wanted="$fingerprint" '{ for (i = 1; i <= NF; i++) if ($i == wanted) found = 1 } END { exit !found }' \
            "$work/signature" || die "$1: manifest.json is signed by another key than $fingerprint"
    fi
    [ "$(field format)" = 1 ] || die "$1: manifest.json has format $(field format), this script reads 1"
    [ "$(field backup)" = "$1" ] || die "$1: its manifest is that of $(field backup)"
    awk -F'"' '$2 == "name" { name = $4 } $2 == "stored_sha256" { print $4 "  " name }' manifest.json >"$work/sums"
    [ -s "$work/sums" ] || die "$1: manifest.json names no objects"
    sha256sum -c "$work/sums" >"$work/checked" 2>&1 ||
        die "$1: damaged or missing: $(grep -v ': OK$' "$work/checked" | head -3 | tr '\n' ' ')"
}
# This backup and what it builds upon, the full one first.
backup=$(basename "$here") backups=$(dirname "$here")
chain='' next=$backup
while [ "$next" != null ]; do
    case " $chain " in *" $next "*) die "$next builds upon itself" ;; esac
    [ -f "$backups/$next/manifest.json" ] ||
        die "backup $next is not there, which ${chain%% *} builds upon; bring it from another copy of the vault"
    cd "$backups/$next"
    check_backup "$next"
    chain="$next${chain:+ $chain}"
    next=$(field parent)
done
cd "$here"
say "all objects are as the manifest says"
major=$(field server_version)
major=${major%%[!0-9]*}
# A program of PostgreSQL's, or the one that was named.
program() { echo "${2:-$(command -v "$1" || echo "/usr/lib/postgresql/$major/bin/$1")}"; }
combine='' kind=$(field kind)
if [ "$kind" = differential ]; then
    full=${chain%% *}
    [ "$chain" = "$full $backup" ] || die "$backup is a differential, which builds upon one full backup, and not upon: $chain"
elif [ "$chain" != "$backup" ]; then
    combine=$(program pg_combinebackup "${PG_COMBINEBACKUP:-}")
    [ -x "$combine" ] || die "pg_combinebackup was not found; name it in PG_COMBINEBACKUP"
fi

# 2. The keys. A pipe of sh hides failures, so each stage leaves a mark.
open_keys() {
    : >"$1"
    shift_to=$1
    shift
    for key in "$@"; do
        if [ -f "$key" ]; then age -d -i "$identity" "$key" >>"$shift_to" 2>>"$work/refused" || true; fi
    done
    # Why none was opened is worth nothing once one was.
    [ -s "$shift_to" ] || { tail -3 "$work/refused" >&2; return 1; }
}
unseal() {
    { age -d -i "$1" "$2" || echo "$2" >>"$work/failed"; } | { zstd -q -d -c || echo "$2" >>"$work/failed"; }
}
check() {
    [ ! -s "$work/failed" ] || die "cannot be opened: $(head -1 "$work/failed")"
}

# 3. The data.
mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)
unpack() {
    open_keys "$work/key" "$backups/$1"/keys/*.age || die "$identity opens none of the keys of $1"
    for part in "$backups/$1"/data/*.tar.zst.age; do
        # What an earlier restore left in the server's folder is none of its data.
        unseal "$work/key" "$part" | tar -x -f - -C "$2" --no-same-owner --anchored --exclude='lifeboat_*' ||
            die "cannot unpack $part"
        check
    done
}
# Lays the differential over its full backup: what is there in the end is what
# PostgreSQL's own manifest names, and nothing else.
overlay() {
    # As "SIZE NAME", by the names in the target.
    awk -F'"' '
        $2 == "Encoded-Path" || ($2 == "Path" && $4 ~ /[\\]/) { exit 1 }
        $2 == "Path" && $4 != "tablespace_map" && $4 !~ /^lifeboat_/ {
            name = $4; size = $7
            sub(/^pg_tblspc\//, "tblspc/", name); gsub(/[^0-9]/, "", size)
            print size, name
        }' backup_manifest >"$work/files" || die "backup_manifest names a file that this script cannot read"
    [ -s "$work/files" ] || die "backup_manifest names no files"
    unpack "$full" "$target"
    (cd "$target" && find . -type f) >"$work/there"
    awk 'NR == FNR { sub(/^[0-9]+ /, ""); named[$0]; next } { sub(/^[.]\//, "") } !($0 in named)' \
        "$work/files" "$work/there" >"$work/vanished"
    while IFS= read -r name; do rm "$target/$name"; done <"$work/vanished"
    # All folders and links come with the differential.
    find "$target" -type l -exec rm {} +
    find "$target" -depth -type d ! -path "$target" -exec rmdir {} + 2>/dev/null || true
    unpack "$backup" "$target"
    (cd "$target" && find . -type f -exec wc -c {} +) >"$work/there"
    awk 'NR == FNR { size = $1; sub(/^[0-9]+ /, ""); wanted[$0] = size; next }
        {
            size = $1
            # What remains are the totals.
            if (!sub(/^ *[0-9]+ [.]\//, "")) next
            if (!($0 in wanted)) print $0 " is not named"
            else if (wanted[$0] != size) print $0 " has " size " bytes instead of " wanted[$0]
            delete wanted[$0]
        }
        END { for (name in wanted) print name " is missing" }' "$work/files" "$work/there" >"$work/unlike"
    [ ! -s "$work/unlike" ] || die "the files are not those of backup_manifest: $(head -3 "$work/unlike" | tr '\n' ';')"
    for verify in "${PG_VERIFYBACKUP:-}" "/usr/lib/postgresql/$major/bin/pg_verifybackup" "$(command -v pg_verifybackup)"; do
        if [ -x "$verify" ] && "$verify" --version | grep -q " $major[^0-9]"; then break; fi
        verify=''
    done
    if [ -z "$verify" ]; then
        say "the sizes of all files are right; their checksums were not compared, as pg_verifybackup of PostgreSQL $major was not found (name it in PG_VERIFYBACKUP)"
        return
    fi
    set -- --ignore=tblspc --ignore=tablespace_map
    for ours in $(awk -F'"' '$2 == "Path" && $4 ~ /^lifeboat_/ { sub(/\/.*/, "", $4); print $4 }' backup_manifest | sort -u); do
        set -- "$@" "--ignore=$ours"
    done
    "$verify" --no-parse-wal --quiet "$@" --manifest-path=backup_manifest "$target" >"$work/unlike" 2>&1 ||
        die "the files are not those of backup_manifest: $(head -3 "$work/unlike" | tr '\n' ';')"
}
if [ "$kind" = differential ]; then
    overlay
elif [ -z "$combine" ]; then
    unpack "$backup" "$target"
else
    staged=$target/lifeboat_chain
    set --
    for one in $chain; do
        mkdir -p "$staged/$one"
        unpack "$one" "$staged/$one"
        # pg_combinebackup takes tablespaces in their places.
        for link in "$staged/$one"/pg_tblspc/*; do
            [ -h "$link" ] || continue
            rm "$link"
            mv "$staged/$one/tblspc/$(basename "$link")" "$link"
        done
        if [ -d "$staged/$one/tblspc" ]; then rmdir "$staged/$one/tblspc"; fi
        set -- "$@" "$staged/$one"
    done
    "$combine" --no-sync --no-manifest --output "$staged/combined" "$@" || die "the backups $chain cannot be combined"
    for space in "$staged"/combined/pg_tblspc/*; do
        [ -d "$space" ] || continue
        mkdir -p "$staged/combined/tblspc"
        mv "$space" "$staged/combined/tblspc/"
        ln -s "../tblspc/$(basename "$space")" "$space"
    done
    for file in "$staged"/combined/* "$staged"/combined/.[!.]*; do
        if [ -e "$file" ]; then mv "$file" "$target/"; fi
    done
    rm -rf "$staged"
fi
mkdir "$target/lifeboat_config"
unseal "$work/key" config.tar.zst.age | tar -x -f - -C "$target/lifeboat_config" --no-same-owner
check
say "data restored"
# Beside this history may lie that of the cluster that came after it; a system id
# begins with the time at which its cluster was made.
for other in "$here"/../../../../*/; do
    other=$(basename "$other")
    case $other in *[!0-9]*) continue ;; esac
    if [ "$other" -gt "$(field system_id)" ]; then
        say "the vault also holds the newer cluster with system id $other; this is the one from before it"
    fi
done

# 4. The WAL: what the backup needs, or everything without a gap.
size=$(field segment_size) timeline=$(field timeline)
per_id=$((4294967296 / size))
# Where a segment lies, as its name has it behind the timeline: text that sorts.
place_of() { printf '%08X%08X' $(($1 / per_id)) $(($1 % per_id)); }
bytes_of() { echo $(((0x${1%%/*} << 32) + 0x${1##*/})); }
number_of() { echo $(($(bytes_of "$1") / size)); }
lsn_of() { printf '%X/%X' $(($1 / 4294967296)) $(($1 % 4294967296)); }
stop=$(bytes_of "$(field stop_lsn)")
first=$(number_of "$(field start_lsn)")
last_needed=$(((stop - 1) / size))

# "timeline first-segment" of the history to follow, newest first.
echo "$timeline 0" >"$work/chain"
goal=$timeline
if [ "$mode" = latest ]; then
    newest=$(ls "$wal" | grep -E '^[0-9A-F]{8}$' | sort | tail -1)
    [ -n "$newest" ] || die "the vault holds no WAL"
    goal=$((0x$newest))
    if [ "$goal" -gt 1 ]; then
        [ -f "$wal/$newest.history" ] || die "$newest.history is missing; where timeline $goal begins is not known"
        begin=0
        : >"$work/oldest_first"
        awk '$1 ~ /^[0-9]+$/ { print $1, $2 }' "$wal/$newest.history" >"$work/forks"
        while read -r parent fork; do
            echo "$parent $begin" >>"$work/oldest_first"
            begin=$(number_of "$fork")
        done <"$work/forks"
        echo "$goal $begin" >>"$work/oldest_first"
        awk '{ line[NR] = $0 } END { for (i = NR; i; i--) print line[i] }' "$work/oldest_first" >"$work/chain"
        grep -q "^$timeline " "$work/chain" || die "the backup's timeline $timeline is not an ancestor of timeline $goal"
    fi
fi

staged=$target/lifeboat_wal
mkdir "$staged"
for history in "$wal"/*.history; do
    if [ -f "$history" ]; then cp "$history" "$staged/"; fi
done
open_keys "$work/wal_key" "$wal"/keys/*/*.age || die "$identity opens none of the keys in $wal/keys"

# Stages segment number $1; sets reached to the end of what it holds.
stage() {
    on=$(awk -v number="$1" '$2 <= number { print $1; exit }' "$work/chain")
    name=$(printf '%08X' "$on")$(place_of "$1")
    folder=$wal/$(printf '%08X' "$on")
    if [ -f "$folder/$name.zst.age" ]; then
        unseal "$work/wal_key" "$folder/$name.zst.age" >"$staged/$name"
        check
        [ "$(wc -c <"$staged/$name")" -eq "$size" ] || die "$name has not the size of a segment"
        held=$size
    else
        held=0
        for tail in "$folder/$name".*.tail.zst.age; do
            [ -f "$tail" ] || continue
            range=${tail##*/"$name".}
            range=${range%.tail.zst.age}
            from=$((0x${range%-*})) to=$((0x${range#*-}))
            if [ "$from" -le "$held" ] && [ "$to" -gt "$held" ]; then
                unseal "$work/wal_key" "$tail" >"$work/tail"
                check
                tail -c +$((held - from + 1)) "$work/tail" >>"$staged/$name"
                held=$to
            fi
        done
        [ "$held" -gt 0 ] || return 1
        if [ "$held" -lt "$size" ]; then head -c $((size - held)) /dev/zero >>"$staged/$name"; fi
    fi
    reached=$(($1 * size + held))
    echo "$1 $on" >>"$work/staged"
    [ "$held" -eq "$size" ]
}

# What the followed history holds before any of it is read, "place name": what is
# staged must come to its end. A timeline goes up to where the next one begins.
: >"$work/listed"
if [ "$mode" = latest ]; then
    end=G
    while read -r on begin; do
        on=$(printf '%08X' "$on") begin=$(place_of "$begin")
        if [ -d "$wal/$on" ]; then
            ls "$wal/$on" | awk -v begin="_$begin" -v end="_$end" '
                /^[0-9A-F]+(\.[0-9A-F]+-[0-9A-F]+\.tail)?\.zst\.age$/ {
                    place = "_" substr($0, 9, 16)
                    if (place >= begin && place < end) print place, $0
                }' >>"$work/listed"
        fi
        end=$begin
    done <"$work/chain"
fi

number=$first reached=0
: >"$work/staged"
while [ "$mode" = latest ] || [ "$number" -le "$last_needed" ]; do
    stage "$number" || break
    number=$((number + 1))
done
[ "$reached" -ge "$stop" ] || die "WAL from $(lsn_of $((number * size))) on is missing; the backup needs it up to $(field stop_lsn)"
# What lies behind the first piece that is missing: later segments, and tails of
# this one that do not follow upon what is held of it.
awk -v at="_$(place_of "$number")" -v held="_$(printf '%08X' $((reached - number * size)))" '
    $1 > at || ($1 == at && "_" substr($2, 35, 8) > held)' "$work/listed" | sort >"$work/behind"
if [ -s "$work/behind" ]; then
    on=$(awk -v number="$number" '$2 <= number { print $1; exit }' "$work/chain")
    gap="segment $(printf '%08X' "$on")$(place_of "$number") is missing from $(lsn_of "$reached") on"
    lost="behind it lie $(awk 'NR == 1 { first = $2 } END { print NR " objects of WAL, " first " to " $2 }' "$work/behind")"
    if [ "$gives_up" = no ]; then
        die "$gap, and $lost. Bring what is missing from another copy of the vault, or restore a backup taken behind it; to give up on purpose what lies behind it, say before-gap instead of latest"
    fi
    say "$gap, and $lost; that is given up"
fi
say "WAL staged up to $(lsn_of "$reached")"

# 5. A known target, so that whatever is missing fails recovery and never shortens it.
waldump=$(program pg_waldump "${PG_WALDUMP:-}")
if [ "$mode" = latest ]; then
    [ -x "$waldump" ] || die "pg_waldump was not found; name it in PG_WALDUMP"
    record='' number=$(tail -1 "$work/staged" | cut -d' ' -f1)
    while [ -z "$record" ] && [ "$number" -ge "$first" ]; do
        on=$(awk -v number="$number" '$1 == number { print $2 }' "$work/staged")
        record=$("$waldump" -p "$staged" -t "$on" -s "$(lsn_of $((number * size)))" 2>/dev/null |
            awk 'match($0, /lsn: [0-9A-F]+\/[0-9A-F]+/) { last = substr($0, RSTART + 5, RLENGTH - 5) } END { print last }')
        number=$((number - 1))
    done
    [ -n "$record" ] || die "the staged WAL holds no record"
    goal_setting="recovery_target_lsn = '$record'"
else
    goal_setting="recovery_target = 'immediate'"
fi

# A tablespace that the WAL makes gets the folder that production gave it, wherever
# this copy lies.
if [ -x "$waldump" ] && "$waldump" --version | grep -q " $major[^0-9]"; then
    # It follows no history: all segments as of one timeline.
    mkdir "$work/line"
    while read -r number on; do
        place=$(place_of "$number")
        ln -s "$staged/$(printf '%08X' "$on")$place" "$work/line/$(printf '%08X' "$goal")$place"
    done <"$work/staged"
    "$waldump" -p "$work/line" -t "$goal" -s "$(field start_lsn)" --rmgr=Tablespace 2>/dev/null |
        sed -n 's/.* lsn: \([0-9A-F/]*\),.* desc: CREATE [0-9]* "\(.*\)"$/\1 \2/p' >"$work/spaces"
    while read -r at space; do
        # The end of the backup comes before it, or it lies in the data folder.
        if [ "$mode" = backup ] && [ "$(bytes_of "$at")" -ge "$stop" ]; then continue; fi
        if [ -z "$space" ]; then continue; fi
        if [ -e "$space" ] && [ -n "$({ ls -A "$space" || echo unreadable; } | grep -v '^lost+found$')" ]; then
            die "the WAL makes a tablespace in $space at $at, and on this machine that is not empty; the copy would write there. Restore on another machine, or from a backup taken after it"
        fi
        say "before the server is started, the folder $space must be there, empty and owned by the server's user: the WAL makes a tablespace in it at $at"
    done <"$work/spaces"
else
    say "the WAL was not looked through for new tablespaces, as pg_waldump of PostgreSQL $major was not found (name it in PG_WALDUMP): the copy would write into their folders"
fi
if [ "$goal" = "$timeline" ]; then goal=current; fi

cd "$target"
for file in postgresql.conf postgresql.auto.conf pg_hba.conf pg_ident.conf; do
    if [ -f "$file" ]; then mv "$file" "lifeboat_config/$file.in_data_folder"; fi
done
rm -f standby.signal recovery.conf postmaster.pid
{
    echo "# Written by restore.sh. The server's own files are in lifeboat_config."
    echo "listen_addresses = ''"
    echo "archive_mode = off"
    echo "hot_standby = off"
    # Larger segments need more than the usual.
    if [ "$size" -gt 16777216 ]; then
        echo "min_wal_size = $((size / 1048576 * 5))MB"
        echo "max_wal_size = $((size / 1048576 * 64))MB"
    fi
    awk '/^  "required_settings": [{]$/ { on = 1; next } on && /^  [}]/ { exit } on { split($0, part, "\""); print part[2] " = '\''" part[4] "'\''" }' "$here/manifest.json"
    echo "restore_command = 'cp \"lifeboat_wal/%f\" \"%p\"'"
    echo "$goal_setting"
    echo "recovery_target_timeline = '$goal'"
    echo "recovery_target_action = 'promote'"
} >postgresql.conf
echo "local all all peer" >pg_hba.conf
: >pg_ident.conf
: >recovery.signal
chmod 700 "$target"
sync
say "restored into $target ($goal_setting)"
if [ "$(id -u)" = 0 ]; then
    say "PostgreSQL does not run as root; give it the folder first: chown -R postgres: '$target'"
fi
say "now start it: pg_ctl -D '$target' start; it recovers by itself and then takes writes"
