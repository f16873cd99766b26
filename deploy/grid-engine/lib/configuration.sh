# shellcheck shell=bash
# The folders, the files of settings, and what only qconf can set. Sourced by cell.sh.

# Everything of Grid Engine's finds the cell by these. Debian's own, in /var/lib/gridengine, stays untouched.
export SGE_ROOT=$CELL_HOME/root SGE_CELL=default
export SGE_QMASTER_PORT=$CELL_PORT SGE_EXECD_PORT=$((CELL_PORT + 1))
COMMON=$SGE_ROOT/$SGE_CELL/common
HOST=$(hostname)

DRMAA_LIBRARY=/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0
PROGRAMS=/usr/lib/gridengine
SHARED=/usr/share/gridengine
GE_ACCOUNT=sgeadmin
AS_ADMIN=(setpriv --reuid "$GE_ACCOUNT" --regid "$GE_ACCOUNT" --clear-groups --)
# The execd marks each job's processes with a group id of its own, and ends a job by it: two cells must not share them.
FIRST_GROUP_ID=$((100000 + CELL_PORT * 10))
LAST_GROUP_ID=$((FIRST_GROUP_ID + 19))

configure() {
    need_host_name
    need_world_searchable "$CELL_HOME"
    mkdir -p "$CELL_HOME"/{etc,log,run} "$COMMON" "$CELL_HOME/execd" "$CELL_HOME/qmaster/job_scripts" "$CELL_HOME/spool"
    make_jobs_dir
    link_programs
    bootstrap >"$COMMON/bootstrap"
    # 127.0.0.1 may be called localhost, as which the qmaster lets nobody in.
    echo "$HOST localhost" >"$COMMON/host_aliases"
    echo "$HOST" >"$COMMON/act_qmaster"
    # Without the file, which the first end of a job makes, nobody can tell "no such job" from "no accounting here".
    touch "$COMMON/accounting"
    env_file >"$CELL_HOME/etc/env.sh"
    chown -R "$GE_ACCOUNT:" "$COMMON" "$CELL_HOME/execd" "$CELL_HOME/qmaster" "$CELL_HOME/spool"
    [ -e "$CELL_HOME/spool/sge" ] || make_database >"$CELL_HOME/log/spool.log" 2>&1 ||
        die "the database cannot be made: $CELL_HOME/log/spool.log"
}

need_host_name() {
    getent hosts "$HOST" >/dev/null || die "this machine's name does not resolve: put '127.0.0.1 $HOST' into /etc/hosts"
}

# Each account that submits reads the cell's files.
need_world_searchable() {
    local folder=$1
    while [ "$folder" != / ]; do
        [ -n "$(find "$folder" -maxdepth 0 -perm -o+x)" ] ||
            die "$folder is closed to other accounts, which could not read the cell's files"
        folder=$(dirname "$folder")
    done
}

# The jobs' own: whoever submits by DRMAA is whom the jobs run as.
make_jobs_dir() {
    [ ! -d "$CELL_JOBS_DIR" ] || return 0
    mkdir -p "$CELL_JOBS_DIR"
    chown "$ACCOUNT:" "$CELL_JOBS_DIR"
    chmod 2750 "$CELL_JOBS_DIR"
}

# A root of its own, whose programs are Debian's.
link_programs() {
    local name
    for name in bin lib utilbin; do
        mkdir -p "$SGE_ROOT/$name"
        ln -sfn "$PROGRAMS" "$SGE_ROOT/$name/$("$SHARED/util/arch")"
    done
    ln -sfn "$SHARED/util" "$SGE_ROOT/util"
}

bootstrap() {
    cat <<CONF
admin_user $GE_ACCOUNT
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params $CELL_HOME/spool
binary_path /usr/sbin
qmaster_spool_dir $CELL_HOME/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
CONF
}

make_database() {
    configuration >"$CELL_HOME/etc/configuration"
    "${AS_ADMIN[@]}" "$PROGRAMS/spoolinit" berkeleydb libspoolb "$CELL_HOME/spool" init &&
        "${AS_ADMIN[@]}" "$PROGRAMS/spooldefaults" configuration "$CELL_HOME/etc/configuration" &&
        "${AS_ADMIN[@]}" "$PROGRAMS/spooldefaults" complexes "$SHARED/util/resources/centry" &&
        "${AS_ADMIN[@]}" "$PROGRAMS/spooldefaults" usersets "$SHARED/util/resources/usersets" &&
        "${AS_ADMIN[@]}" "$PROGRAMS/spooldefaults" managers "$GE_ACCOUNT"
}

# Debian's, with what a test cannot wait for made short: a host reports every five seconds and is missed after thirty.
# Accounts of the system may run jobs, root may not. Accounting is written within a second of a job's end.
configuration() {
    sed -E \
        -e "s|^(execd_spool_dir) .*|\1 $CELL_HOME/execd|" \
        -e 's|^(min_[ug]id) .*|\1 100|' \
        -e 's|^(load_report_time) .*|\1 00:00:05|' \
        -e 's|^(max_unheard) .*|\1 00:00:30|' \
        -e 's|^(reporting_params) .*|\1 accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00|' \
        -e "s|^(gid_range) .*|\1 $FIRST_GROUP_ID-$LAST_GROUP_ID|" \
        -e 's|^(administrator_mail) .*|\1 none|' \
        "$SHARED/default-configuration"
}

env_file() {
    cat <<CONF
export SGE_ROOT=$SGE_ROOT SGE_CELL=$SGE_CELL SGE_QMASTER_PORT=$SGE_QMASTER_PORT SGE_EXECD_PORT=$SGE_EXECD_PORT
export DRMAA_LIBRARY_PATH=$DRMAA_LIBRARY
export CELL_HOME=$CELL_HOME CELL_PORT=$CELL_PORT CELL_JOBS_DIR=$CELL_JOBS_DIR
CONF
}

# ---------------------------------------------------------------- what only a running qmaster can be told

configure_by_qconf() { quick_scheduler && admit_host && make_group && make_pe && make_queue; }

# Its answers are for the log: some are complaints that what should be there is there.
run_qconf() { qconf "$@" >>"$CELL_HOME/log/qconf.log" 2>&1; }

from_file() { # OPTION TEXT: qconf with a file of that text
    printf '%s\n' "$2" >"$CELL_HOME/etc/qconf"
    run_qconf "$1" "$CELL_HOME/etc/qconf"
}

# It looks at the queue each second, and at once after a submission and an end.
quick_scheduler() {
    from_file -Msconf "$(qconf -ssconf | sed -E \
        -e 's/^(schedule_interval) .*/\1 0:0:1/' -e 's/^(flush_(submit|finish)_sec) .*/\1 1/')"
}

admit_host() {
    run_qconf -ah "$HOST"
    run_qconf -as "$HOST"
    qconf -ss | grep -qx "$HOST"
}

make_group() {
    run_qconf -shgrp @allhosts || from_file -Ahgrp "group_name @allhosts
hostlist $HOST"
}

# For jobs with more than one CPU: all slots on one host.
make_pe() {
    # shellcheck disable=SC2016  # $pe_slots is Grid Engine's
    run_qconf -sp smp || from_file -Ap 'pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE'
}

# No thresholds: on a small machine that is busy with tests they would stop the queue.
make_queue() { run_qconf -sq all.q || from_file -Aq "$(queue)"; }

queue() {
    local limit
    cat <<CONF
qname all.q
hostlist @allhosts
seq_no 0
load_thresholds NONE
suspend_thresholds NONE
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
ckpt_list NONE
pe_list smp
rerun TRUE
slots $CELL_SLOTS
tmpdir /tmp
shell /bin/sh
prolog NONE
epilog NONE
shell_start_mode posix_compliant
starter_method NONE
suspend_method NONE
resume_method NONE
terminate_method NONE
notify 00:00:60
owner_list NONE
user_lists NONE
xuser_lists NONE
subordinate_list NONE
complex_values NONE
projects NONE
xprojects NONE
calendar NONE
initial_state default
CONF
    for limit in rt cpu fsize data stack core rss vmem; do
        printf 's_%s INFINITY\nh_%s INFINITY\n' $limit $limit
    done
}
