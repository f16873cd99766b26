# shellcheck shell=bash
# Virtual nodes. Sourced by cluster.sh.
#
# A node is a process `init-NAME` that is process 1 of a PID namespace of its own, with a host name and mounts of its
# own; slurmd and all that it starts run in there. So a job sees its node's host name, and SIGKILL to that one process
# is a crash of the whole node: the kernel kills everything in the namespace at once, and no slurmstepd lives on to
# tell slurmctld how its job ended.

node_names() {
    local number
    for ((number = 1; number <= NODES; number++)); do echo "node$number"; done
}

# Not `grep -q`, which ends at its match: node_names would die of a closed pipe now and then, and count as failed.
is_node() { node_names | grep -x -- "$1" >/dev/null; }

namespaces_work() { unshare --mount --uts --pid --fork --mount-proc -- hostname probe 2>/dev/null; }

# Start of it what does not run. Where that is the whole node, slurmd tells slurmctld that it booted (-b), so that jobs
# of before are known to be gone; otherwise they would count as running for another minute and a half.
start_node() { # NAME
    ! is_running "$1" || return 0
    if is_running "init-$1"; then
        start_slurmd "$1"
    else
        start_init "$1" && start_slurmd "$1" -b
    fi
}

start_init() { # NODE
    local node=$1 unshare_pid
    spawn "unshare-$node" unshare --mount --uts --pid --fork --mount-proc -- \
        "$LIB/node_init.sh" "$node" "$CLUSTER_HOME/etc/hosts" || return
    unshare_pid=$(pid_of "unshare-$node") || return
    wait_for_daemon "unshare-$node" 5 child_of "$unshare_pid" || return
    write_record "init-$node" "$(child_of "$unshare_pid")" || return
    wait_for_daemon "init-$node" 5 node_has_its_name "$node"
}

# The last thing that node_init.sh does is to mount its hosts file.
node_has_its_name() { nsenter --target "$(pid_of "init-$1")" --mount -- grep -q labctl /etc/hosts; }

# nsenter has to fork to enter a PID namespace; the record is that of its child.
start_slurmd() { # NODE [OPTION…]
    local node=$1 nsenter_pid
    shift
    spawn "nsenter-$node" nsenter --target "$(pid_of "init-$node")" --mount --uts --pid -- \
        slurmd -D -N "$node" "$@" || return
    nsenter_pid=$(pid_of "nsenter-$node") || return
    wait_for_daemon "nsenter-$node" 5 child_of "$nsenter_pid" || return
    write_record "$node" "$(child_of "$nsenter_pid")"
    # It ends with slurmd, and nobody needs to find it.
    rm -f "$RECORDS/nsenter-$node"
}

crash_node() { # NODE
    stop "init-$1" KILL
    wait_for 5 "the end of $1" is_gone "$1"
    stop "unshare-$1"
    rm -f "$RECORDS/$1"
}

# A star behind its state says that slurmctld does not hear the node.
all_nodes_ready() {
    local ready
    ready=$(sinfo --noheader --partition=main --states=idle,alloc,mix --Node --format='%N %T' | sort -u | grep -cv '[*]')
    [ "$ready" = "$NODES" ]
}

# slurmctld calls a node down that it cannot hear, as all are while munge is away, and never asks it again.
resume_silent_nodes() {
    local node
    for node in $(sinfo --noheader --partition=main --states=down --Node --format=%N | sort -u); do
        is_running "$node" || continue
        say "slurmctld calls $node down, and it is alive: resumed"
        scontrol update nodename="$node" state=resume || true
    done
}

# What slurmd made for each node; it leaves them behind.
remove_cgroups() {
    local node
    for node in $(node_names); do
        find /sys/fs/cgroup/*/"slurm_$node" -depth -type d -exec rmdir {} + 2>/dev/null
    done
}
