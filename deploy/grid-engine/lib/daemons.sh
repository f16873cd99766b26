# shellcheck shell=bash
# The qmaster and the execd. Sourced by cell.sh. Each start_… returns when the daemon answers.

# SGE_ND: it stays in the foreground, so that the record is the daemon's own. Nothing else of this shell's variables:
# jobs inherit what the execd has.
CLEAN=(env --ignore-environment "PATH=$PATH" LC_ALL=C SGE_ND=1 "SGE_ROOT=$SGE_ROOT" "SGE_CELL=$SGE_CELL"
    "SGE_QMASTER_PORT=$SGE_QMASTER_PORT" "SGE_EXECD_PORT=$SGE_EXECD_PORT")

start_qmaster() {
    ! is_running qmaster || return 0
    need_free_port "$SGE_QMASTER_PORT"
    spawn qmaster "${CLEAN[@]}" sge_qmaster
    wait_for_daemon qmaster 30 qmaster_answers
}

qmaster_answers() { timeout 5 qconf -sh; }

start_execd() {
    ! is_running execd || return 0
    need_free_port "$SGE_EXECD_PORT"
    spawn execd "${CLEAN[@]}" sge_execd
    wait_for_daemon execd 30 port_is_open "$SGE_EXECD_PORT"
}

# The queue says where it runs (`lx-amd64`) once the host has reported, and has a letter behind that while something
# is wrong with it.
has_reported() { qstat -f | grep -Eq "^all\.q@$HOST .* lx-[a-z0-9]+ *$"; }

end_all_jobs() {
    is_running qmaster || return 0
    timeout 10 qdel -f -u '*' >/dev/null 2>&1
    is_running execd || return 0
    wait_for 20 "the end of the jobs" no_jobs
}

no_jobs() { local jobs; jobs=$(timeout 5 qstat -u '*') && [ -z "$jobs" ]; }
