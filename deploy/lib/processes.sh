# shellcheck shell=bash
# Starting, finding and stopping processes without systemd. Sourced by cluster.sh and cell.sh,
# which say with DATA_HOME where all their files are.

RECORDS=$DATA_HOME/run
PROGRAM=$(basename "$0")

say() { echo "${PROGRAM%.sh}: $*" >&2; }
die() { say "$*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "this needs root"; }

# One script at a time for each home. Descriptor 9 is closed in everything that stays running.
lock() {
    mkdir -p "$DATA_HOME" "$RECORDS"
    exec 9>"$DATA_HOME/lock"
    flock --wait 180 9 || die "another $PROGRAM has held $DATA_HOME/lock for three minutes"
}

# The comment at the head of the script is its help.
usage() { sed -n '2,/^set -u/{/^#/s/^# \{0,1\}//p}' "$0"; }

seconds_since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }'; }
resident_mib() { awk '/^VmRSS/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }

# When process $1 started, in clock ticks since boot; fails for one that is gone, or dead and not yet waited for.
start_time() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name in brackets may hold anything, so count from behind it: state is the first field, the time the 20th.
    read -ra fields <<<"${stat##*) }"
    [ "${fields[0]}" != Z ] || return 1
    echo "${fields[19]}"
}

# A record says which process a daemon is: its id and when it started. An id alone could by now be somebody else's,
# and this script kills by it, as root.
write_record() { # NAME PID
    local started
    started=$(start_time "$2") || return 1
    echo "$2 $started" >"$RECORDS/$1"
}

pid_of() { # NAME: its process id, if it runs
    local pid started
    read -r pid started 2>/dev/null <"$RECORDS/$1" || return 1
    [ "$(start_time "$pid")" = "$started" ] || return 1
    echo "$pid"
}

is_running() { pid_of "$1" >/dev/null; }

# In a session of its own, so that a Ctrl-C at the terminal that started the cluster does not reach it.
spawn() { # NAME COMMAND…
    local name=$1 pid
    shift
    (
        exec 9>&-
        cd / || exit
        exec setsid "$@" </dev/null >>"$DATA_HOME/log/$name.out" 2>&1
    ) &
    pid=$!
    disown "$pid"
    write_record "$name" "$pid"
}

stop() { # NAME [SIGNAL]: return when it is gone; SIGKILL after 20 s
    local pid tenths
    if pid=$(pid_of "$1"); then
        kill "-${2:-TERM}" "$pid" 2>/dev/null
        for ((tenths = 0; tenths < 200; tenths++)); do
            is_running "$1" || break
            sleep 0.1
        done
        if is_running "$1"; then
            say "$1 (process $pid) does not stop: SIGKILL"
            kill -KILL "$pid" 2>/dev/null
            wait_for 5 "the end of $1" is_gone "$1"
        fi
    fi
    rm -f "$RECORDS/$1"
}

is_gone() { ! is_running "$1"; }

wait_for() { # SECONDS WHAT COMMAND…: until the command succeeds
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { say "waited in vain for $what"; return 1; }
        sleep 0.1
    done
}

# As wait_for, and no longer than the daemon lives: a daemon that died at once is reported at once.
wait_for_daemon() { # NAME SECONDS COMMAND…
    local name=$1 deadline=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        is_running "$name" || { say "$name ended as it started"; return 1; }
        [ "$SECONDS" -lt "$deadline" ] || { say "waited in vain for $name"; return 1; }
        sleep 0.1
    done
}

# Opened in a subshell, which closes it again.
port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A stranger's server on the port would be taken for ours.
need_free_port() { ! port_is_open "$1" || die "port $1 is taken: choose another CLUSTER_PORT"; }

child_of() { pgrep --parent "$1" | head -1 | grep .; }

as_account() { # ACCOUNT COMMAND…: in its own primary group only, replacing this process
    local account=$1
    shift
    setpriv --reuid "$account" --regid "$(id -g "$account")" --clear-groups -- "$@"
}
