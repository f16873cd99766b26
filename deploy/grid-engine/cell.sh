#!/usr/bin/env bash
# cell.sh - a real Grid Engine on this one machine, for tests and for trying the portal.
#
#   cell.sh up [--no-install]       start everything, or what is missing of it; run it as often as you like
#   cell.sh down [--purge]          stop everything, jobs too; --purge also deletes all data and the account, if
#                                   this script made it
#   cell.sh status                  daemons, queue, jobs; exit 0 only if everything is up
#   cell.sh stop-daemon NAME [SIGNAL]   stop qmaster or execd; jobs that run go on
#   cell.sh start-daemon NAME       start it again
#   cell.sh env                     what a shell needs to use the cell: eval "$(cell.sh env)"
#
# For root on Debian 12; no systemd. The daemons listen on all of the machine's addresses and believe whoever calls:
# Grid Engine has no setting against the first, and the second is how Debian builds it. Not for a machine that
# others can reach.
#
# Jobs run as the account that submits them, so a dispatcher runs as the jobs' account: DRMAA has no `sudo` in between,
# as there is with Slurm's commands. That account is `portal-cell`, which is made where it is missing.
#
# Environment (what is in brackets holds otherwise):
#   CELL_HOME      all data of the cell [$TMPDIR/portal-grid-engine]; every account must be able to walk there
#   CELL_PORT      of the qmaster [16900]; the execd has the next one. Another home and a port that is two or more
#                  away, and a second cell runs beside the first
#   CELL_JOBS_DIR  the portal's jobs folder [$CELL_HOME/jobs]; made if it is missing, and not deleted where it lies
#                  elsewhere
#   CELL_SLOTS     [6]   how many jobs run at a time, at most 20
set -u -o pipefail
umask 022
export LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

CELL_HOME=$(realpath --canonicalize-missing --no-symlinks "${CELL_HOME:-${TMPDIR:-/tmp}/portal-grid-engine}")
CELL_PORT=${CELL_PORT:-16900}
CELL_JOBS_DIR=$(realpath --canonicalize-missing --no-symlinks "${CELL_JOBS_DIR:-$CELL_HOME/jobs}")
CELL_SLOTS=${CELL_SLOTS:-6}
# Grid Engine's files have no way to quote them.
case $CELL_HOME in
    *[!A-Za-z0-9/._+-]*) echo "CELL_HOME may have letters, digits and / . _ + - only: $CELL_HOME" >&2; exit 2 ;;
esac
[[ $CELL_SLOTS =~ ^[1-9][0-9]?$ && $CELL_SLOTS -le 20 ]] || { echo "CELL_SLOTS: 1 to 20, not $CELL_SLOTS" >&2; exit 2; }

HERE=$(dirname "$(readlink -f "$0")")
DATA_HOME=$CELL_HOME
# shellcheck source=../lib/processes.sh
. "$HERE/../lib/processes.sh"
# shellcheck source=lib/accounts.sh
. "$HERE/lib/accounts.sh"
# shellcheck source=lib/configuration.sh
. "$HERE/lib/configuration.sh"
# shellcheck source=lib/daemons.sh
. "$HERE/lib/daemons.sh"

DAEMONS="qmaster execd"
is_daemon() { [ "$1" = qmaster ] || [ "$1" = execd ]; }

# ---------------------------------------------------------------- verbs

verb_up() { # [--no-install]
    need_root
    local started_at=$EPOCHREALTIME
    case ${1:-} in
        '') "$HERE/install_packages.sh" >&2 || die "Grid Engine cannot be installed" ;;
        --no-install) ;;
        *) die "up: there is no option $1" ;;
    esac
    lock
    make_account
    configure
    start_qmaster || die "the qmaster does not start: $CELL_HOME/qmaster/messages, $CELL_HOME/log/qmaster.out"
    configure_by_qconf || die "qconf failed: $CELL_HOME/log/qconf.log"
    start_execd || die "the execd does not start: $CELL_HOME/execd/*/messages, $CELL_HOME/log/execd.out"
    wait_for 30 "the host to report" has_reported || { qstat -f >&2; die "the host does not take jobs"; }
    say "up: $CELL_SLOTS slots in $(seconds_since "$started_at") s"
}

verb_down() { # [--purge]
    need_root
    [ -d "$CELL_HOME" ] || { say "there is nothing at $CELL_HOME"; return 0; }
    lock
    # While the execd can still end them.
    end_all_jobs
    stop execd
    stop qmaster
    [ "${1:-}" != --purge ] || purge
    say "down"
}

# Only what this script made, name by name: CELL_HOME is the caller's choice and might be anybody's folder.
purge() {
    remove_account
    local name
    for name in etc execd jobs log qmaster root run spool lock; do
        rm -rf "${CELL_HOME:?}/$name"
    done
    rmdir --ignore-fail-on-non-empty "$CELL_HOME"
}

verb_status() {
    local name pid all_up=0
    for name in $DAEMONS; do
        if pid=$(pid_of "$name"); then
            printf '%-8s up    pid %-7s %s MiB\n' "$name" "$pid" "$(resident_mib "$pid")"
        else
            printf '%-8s down\n' "$name"
            all_up=1
        fi
    done
    ! is_running qmaster || qstat -f -u '*'
    return $all_up
}

verb_stop_daemon() { # NAME [SIGNAL]
    need_root; lock
    is_daemon "$1" || die "there is no daemon $1"
    stop "$1" "${2:-TERM}"
    say "$1 is stopped"
}

verb_start_daemon() { # NAME
    need_root; lock
    is_daemon "$1" || die "there is no daemon $1"
    "start_$1" || die "$1 does not start: see $CELL_HOME/log"
    say "$1 runs"
}

verb_env() { cat "$CELL_HOME/etc/env.sh" 2>/dev/null || die "there is no cell at $CELL_HOME: run up first"; }

main() {
    local verb=${1:-help}
    [ $# -eq 0 ] || shift
    case $verb:$# in
        up:0 | up:1) verb_up "$@" ;;
        down:0 | down:1) verb_down "$@" ;;
        status:0) verb_status ;;
        stop-daemon:1 | stop-daemon:2) verb_stop_daemon "$@" ;;
        start-daemon:1) verb_start_daemon "$1" ;;
        env:0) verb_env ;;
        help:* | -h:* | --help:*) usage ;;
        *) usage >&2; exit 2 ;;
    esac
}

main "$@"
