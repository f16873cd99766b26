#!/usr/bin/env bash
# cluster.sh - a real Slurm cluster with several virtual nodes on one machine, for tests and for trying the portal.
#
#   cluster.sh install                  install the Debian packages that are missing
#   cluster.sh up [--nodes N] [--cgroup] [--no-accounting] [--no-ssh] [--no-install]
#                                       start everything, or what is missing of it; run it as often as you like
#   cluster.sh down [--purge]           stop everything, jobs too; --purge also deletes all data and the accounts
#                                       that this script made
#   cluster.sh status                   daemons, nodes, queue; exit 0 only if everything is up
#   cluster.sh kill-node NAME [--now]   a node crashes: slurmd and all its jobs die by SIGKILL. Slurm finds out
#                                       after SLURMD_TIMEOUT, or with --now at once
#   cluster.sh revive-node NAME         the node boots again
#   cluster.sh stop-daemon NAME [SIGNAL]   stop ctld, dbd, db, munge or sshd; or a node's slurmd, whose jobs live on
#   cluster.sh start-daemon NAME        start it again
#   cluster.sh env                      what a shell needs to use the cluster: eval "$(cluster.sh env)"
#
# For root on Debian 12; no systemd. Everything listens on 127.0.0.1 only.
#
# Accounts: `portal` (the web server and the dispatcher) and `portal-jobs` (jobs run as it); both are in the group
# portal-jobs. They are made where they are missing.
#
# SSH, as portal-jobs: ssh/people_key may do anything; ssh/helper_key may do one thing, run the portal's helper.
#     ssh -F "$CLUSTER_HOME/ssh/config" people sinfo
#
# Environment (what is in brackets holds otherwise):
#   CLUSTER_HOME      all data of the cluster [$TMPDIR/portal-slurm]; every account must be able to walk there, and
#                     its path should be short: the one of a socket in there may have 107 characters
#   CLUSTER_PORT      first of its ports [16800]: + 6 MariaDB, + 17 slurmctld, + 19 slurmdbd, + 22 sshd,
#                     + 101 and on the nodes. Another home and port, and a second cluster runs beside the first
#   CLUSTER_JOBS_DIR  the portal's jobs folder, for the restricted key [$CLUSTER_HOME/jobs]; made if it is missing,
#                     and not deleted where it lies elsewhere
#   CLUSTER_NODE_CPUS [4]  CLUSTER_NODE_MEMORY_MIB [4000]   what each node claims to have
#   SLURMD_TIMEOUT [5]     seconds of silence after which a node counts as dead
#   MESSAGE_TIMEOUT [2]    seconds that the daemons wait for each other
#   CRED_EXPIRE [5]        seconds that a requeued job waits, at least
#   MIN_JOB_AGE [300]      seconds that slurmctld remembers finished jobs; after that only accounting does
#   CLUSTER_EXTRA_CONF     lines for the end of slurm.conf
set -u -o pipefail
umask 022
export LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

CLUSTER_HOME=$(realpath --canonicalize-missing --no-symlinks "${CLUSTER_HOME:-${TMPDIR:-/tmp}/portal-slurm}")
CLUSTER_PORT=${CLUSTER_PORT:-16800}
CLUSTER_JOBS_DIR=$(realpath --canonicalize-missing --no-symlinks "${CLUSTER_JOBS_DIR:-$CLUSTER_HOME/jobs}")
# slurm.conf and sshd_config have no way to quote them. (A jobs folder is not named in there, and may be called anything.)
case $CLUSTER_HOME in
    *[!A-Za-z0-9/._+-]*) echo "CLUSTER_HOME may have letters, digits and / . _ + - only: $CLUSTER_HOME" >&2; exit 2 ;;
esac
# Each of Slurm's commands and daemons below reads this; nothing here ever touches /etc/slurm.
export SLURM_CONF=$CLUSTER_HOME/etc/slurm.conf

HERE=$(dirname "$(readlink -f "$0")")
LIB=$HERE/lib
DATA_HOME=$CLUSTER_HOME
# shellcheck source=../lib/processes.sh
. "$HERE/../lib/processes.sh"
# shellcheck source=lib/packages.sh
. "$LIB/packages.sh"
# shellcheck source=lib/accounts.sh
. "$LIB/accounts.sh"
# shellcheck source=lib/configuration.sh
. "$LIB/configuration.sh"
# shellcheck source=lib/daemons.sh
. "$LIB/daemons.sh"
# shellcheck source=lib/nodes.sh
. "$LIB/nodes.sh"
# shellcheck source=lib/ssh.sh
. "$LIB/ssh.sh"

# ---------------------------------------------------------------- what was asked for

# How the cluster was brought up, so that the other verbs, and another `up`, know its nodes and daemons. The file is
# there from `up` to `down`.
CHOICES=$CLUSTER_HOME/etc/choices
load_choices() {
    NODES=3 ACCOUNTING=1 SSH=1 CGROUP=0
    # shellcheck source=/dev/null
    [ ! -r "$CHOICES" ] || . "$CHOICES"
}

save_choices() {
    printf 'NODES=%s ACCOUNTING=%s SSH=%s CGROUP=%s\n' "$NODES" "$ACCOUNTING" "$SSH" "$CGROUP" >"$CHOICES"
}

daemon_names() {
    echo munge
    [ "$ACCOUNTING" = 0 ] || printf '%s\n' db dbd
    echo ctld
    [ "$SSH" = 0 ] || echo sshd
}

is_daemon() { daemon_names | grep -qx -- "$1"; }

# ---------------------------------------------------------------- verbs

parse_up() {
    install_first=1
    while [ $# -gt 0 ]; do
        case $1 in
            --nodes) [ $# -gt 1 ] || die "--nodes wants a number"; NODES=$2; shift ;;
            --nodes=*) NODES=${1#*=} ;;
            --cgroup) CGROUP=1 ;;
            --no-accounting) ACCOUNTING=0 ;;
            --no-ssh) SSH=0 ;;
            --no-install) install_first=0 ;;
            *) die "up: there is no option $1" ;;
        esac
        shift
    done
    # 90 would still fit; more than that is no help to anybody on one machine.
    [[ $NODES =~ ^[1-9][0-9]?$ ]] || die "--nodes wants a number from 1 to 99, not '$NODES'"
}

verb_up() {
    need_root
    local started_at=$EPOCHREALTIME before install_first
    lock
    load_choices
    before="$NODES $ACCOUNTING $CGROUP"
    parse_up "$@"
    # What slurm.conf says of these cannot be changed under a running cluster.
    [ ! -e "$CHOICES" ] || [ "$before" = "$NODES $ACCOUNTING $CGROUP" ] ||
        die "it is up with other nodes, accounting or cgroups: run down first"
    [ "$install_first" = 0 ] || install_packages
    namespaces_work || die "this machine does not let root make namespaces, which each node needs"
    make_accounts
    configure
    save_choices
    start_all
    say "up: $NODES node(s) in $(seconds_since "$started_at") s"
}

start_all() {
    local node
    start_munge || die "munged does not start: $CLUSTER_HOME/munge/munged.log"
    if [ "$ACCOUNTING" = 1 ]; then
        start_db || die "MariaDB does not start: $CLUSTER_HOME/log/db.out"
        start_dbd || die "slurmdbd does not start: $CLUSTER_HOME/log/slurmdbd.log"
        register_in_accounting || die "sacctmgr failed: $CLUSTER_HOME/log/sacctmgr.log"
    fi
    start_ctld || die "slurmctld does not start: $CLUSTER_HOME/log/slurmctld.log"
    for node in $(node_names); do
        start_node "$node" || die "$node does not start: $CLUSTER_HOME/log/slurmd-$node.log"
    done
    [ "$SSH" = 0 ] || start_sshd || die "sshd does not start: $CLUSTER_HOME/log/sshd.out"
    wait_for 10 "the nodes to speak up by themselves" all_nodes_ready || resume_silent_nodes
    wait_for 30 "the nodes" all_nodes_ready || { sinfo -N >&2; die "not all nodes came up"; }
}

verb_down() {
    need_root
    local node
    [ -d "$CLUSTER_HOME" ] || { say "there is nothing at $CLUSTER_HOME"; return 0; }
    lock
    load_choices
    stop sshd
    # Before the nodes: slurmctld should save its state, not watch them die.
    stop ctld
    for node in $(node_names); do crash_node "$node"; done
    [ "$CGROUP" = 0 ] || remove_cgroups
    # After slurmctld, which hands what it still knows to slurmdbd as it ends.
    stop dbd
    stop db
    stop munge
    rm -f "$CHOICES"
    [ "${1:-}" != --purge ] || purge
    say "down"
}

# Only what this script made, name by name: CLUSTER_HOME is the caller's choice and might be anybody's folder.
purge() {
    remove_accounts
    local name
    for name in ctld db etc jobs log munge run spool ssh lock; do
        rm -rf "${CLUSTER_HOME:?}/$name"
    done
    rmdir --ignore-fail-on-non-empty "$CLUSTER_HOME"
}

verb_status() {
    load_choices
    local name pid all_up=0
    for name in $(daemon_names) $(node_names); do
        if pid=$(pid_of "$name"); then
            printf '%-8s up    pid %-7s %s MiB\n' "$name" "$pid" "$(resident_mib "$pid")"
        else
            printf '%-8s down\n' "$name"
            all_up=1
        fi
    done
    if is_running ctld; then
        sinfo --Node --partition=main --format='%N %T %C %E'
        squeue
    fi
    return $all_up
}

verb_kill_node() {
    need_root; lock; load_choices
    is_node "$1" || die "there is no node $1"
    crash_node "$1"
    say "$1 is dead"
    [ "${2:-}" != --now ] || scontrol update "nodename=$1" state=down "reason=node crashed"
}

verb_revive_node() {
    need_root; lock; load_choices
    is_node "$1" || die "there is no node $1"
    start_node "$1" || die "$1 does not start: $CLUSTER_HOME/log/slurmd-$1.log"
    say "$1 is booting"
}

verb_stop_daemon() {
    need_root; lock; load_choices
    is_daemon "$1" || is_node "$1" || die "there is no daemon $1"
    stop "$1" "${2:-TERM}"
    say "$1 is stopped"
}

verb_start_daemon() {
    need_root; lock; load_choices
    if is_node "$1"; then
        start_node "$1"
    elif is_daemon "$1"; then
        "start_$1"
    else
        die "there is no daemon $1"
    fi || die "$1 does not start: see $CLUSTER_HOME/log"
    say "$1 runs"
}

verb_env() { cat "$CLUSTER_HOME/etc/env.sh" 2>/dev/null || die "there is no cluster at $CLUSTER_HOME: run up first"; }

main() {
    local verb=${1:-help}
    [ $# -eq 0 ] || shift
    case $verb:$# in
        install:0) need_root; install_packages ;;
        up:*) verb_up "$@" ;;
        down:0 | down:1) verb_down "$@" ;;
        status:0) verb_status ;;
        kill-node:1 | kill-node:2) verb_kill_node "$@" ;;
        revive-node:1) verb_revive_node "$1" ;;
        stop-daemon:1 | stop-daemon:2) verb_stop_daemon "$@" ;;
        start-daemon:1) verb_start_daemon "$1" ;;
        env:0) verb_env ;;
        help:* | -h:* | --help:*) usage ;;
        *) usage >&2; exit 2 ;;
    esac
}

main "$@"
